//! Arrow IPC without a copy: the columns are slices of a `Snapshot`, and stay while another process rewrites the file.
//!
//! `cargo run --features ipc --bin ipc`

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::root_as_footer;
use arrow::ipc::writer::FileWriter;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use stillmap::Snapshot;

type Error = Box<dyn std::error::Error>;

const ROWS: i64 = 1_000_000;

fn write(path: &Path) -> Result<(), Error> {
    let column = |factor: i64| {
        Arc::new((0..ROWS).map(|row| row * factor).collect::<Int64Array>()) as ArrayRef
    };
    let batch = RecordBatch::try_from_iter([("once", column(1)), ("twice", column(2))])?;
    let mut writer = FileWriter::try_new(File::create(path)?, &batch.schema())?;
    writer.write(&batch)?;
    writer.finish()?;
    Ok(())
}

/// The record batches of an Arrow IPC file. Their columns are slices of `buffer`.
fn read(buffer: &Buffer) -> Result<Vec<RecordBatch>, Error> {
    let trailer = buffer.len() - 10;
    let length = read_footer_length(buffer[trailer..].try_into()?)?;
    let footer = root_as_footer(&buffer[trailer - length..trailer]).map_err(|e| e.to_string())?;
    let schema = fb_to_schema(footer.schema().ok_or("no schema")?);
    // Fails, instead of copying, where a column is not aligned.
    let decoder = FileDecoder::new(Arc::new(schema), footer.version()).with_require_alignment(true);
    let mut batches = Vec::new();
    for block in footer.recordBatches().into_iter().flatten() {
        let length = block.metaDataLength() as usize + block.bodyLength() as usize;
        let data = buffer.slice_with_length(block.offset() as usize, length);
        batches.extend(decoder.read_record_batch(block, &data)?);
    }
    Ok(batches)
}

fn sum(column: &ArrayRef) -> Result<i64, Error> {
    let numbers = column
        .as_any()
        .downcast_ref::<Int64Array>()
        .ok_or("not Int64")?;
    Ok(numbers.values().iter().sum())
}

fn main() -> Result<(), Error> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("table.arrow");
    write(&path)?;
    let snapshot = Arc::new(Snapshot::open(&path)?);
    println!("{} bytes, kept by {:?}", snapshot.len(), snapshot.backing());

    let owner = Arc::clone(&snapshot);
    // The buffer keeps the snapshot alive.
    let buffer = Buffer::from(bytes_of(owner));
    let batches = read(&buffer)?;
    let mapping = snapshot.as_ptr_range();
    for column in batches.iter().flat_map(RecordBatch::columns) {
        for data in column.to_data().buffers() {
            assert!(mapping.contains(&data.as_ptr()), "a copied column");
        }
    }
    println!(
        "{} columns, all inside the mapping",
        batches[0].num_columns()
    );

    let expected = [ROWS * (ROWS - 1) / 2, ROWS * (ROWS - 1)];
    let rewrite = format!("head -c {} /dev/zero > {}", snapshot.len(), path.display());
    assert!(
        Command::new("sh")
            .args(["-c", &rewrite])
            .status()?
            .success()
    );
    assert!(
        std::fs::read(&path)?.iter().all(|&byte| byte == 0),
        "the file is rewritten"
    );
    for (column, expected) in batches[0].columns().iter().zip(expected) {
        assert_eq!(sum(column)?, expected);
    }
    println!(
        "another process has rewritten the file; the columns are as before, kept by {:?}",
        snapshot.backing()
    );
    Ok(())
}

struct Owner(Arc<Snapshot>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn bytes_of(snapshot: Arc<Snapshot>) -> bytes::Bytes {
    bytes::Bytes::from_owner(Owner(snapshot))
}

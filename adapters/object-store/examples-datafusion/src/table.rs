//! The table of the examples: whole numbers, so that sums are exact in any order.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub const COLUMNS: usize = 8;
const BATCH: i64 = 100_000;

/// Rows of `part`, starting at row `rotation`: the same rows in another order.
pub fn batches(part: i64, rows: i64, rotation: i64) -> impl Iterator<Item = RecordBatch> {
    (0..rows).step_by(BATCH as usize).map(move |first| {
        let rows_of_batch = first..(first + BATCH).min(rows);
        let column = |column: i64| -> ArrayRef {
            let value = |row: i64| {
                let row = (row + rotation) % rows;
                row.wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(column)
                    >> 40
            };
            Arc::new(rows_of_batch.clone().map(value).collect::<Int64Array>())
        };
        let parts: ArrayRef = Arc::new(Int64Array::from_value(part, rows_of_batch.clone().count()));
        let columns = (1..COLUMNS as i64).map(|number| (format!("c{number}"), column(number)));
        let all = std::iter::once(("part".to_string(), parts)).chain(columns);
        RecordBatch::try_from_iter(all).expect("columns of one length")
    })
}

/// Plain values of fixed width: every rotation has the same layout, to the byte.
pub fn write_parquet(
    path: &Path,
    batches: impl Iterator<Item = RecordBatch>,
    compression: Compression,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut batches = batches.peekable();
    let schema = batches.peek().ok_or("no rows")?.schema();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, schema, Some(properties))?;
    for batch in batches {
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(())
}

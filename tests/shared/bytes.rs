//! Bulk bytes against a model, and beside a writer.

use super::*;

#[test]
fn bulk_bytes_agree_with_a_model() {
    const SIZE: usize = 20_000;
    let shared = Shared::<[AtomicU8]>::with_len(SIZE).unwrap();
    let mut model = vec![0_u8; SIZE];
    let mut random = support::random::seed();
    let mut next = |bound: usize| {
        // xorshift64*
        random |= 1;
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    };
    for turn in 0..20_000_u32 {
        let near = [0, 1, SIZE - 1, SIZE, SIZE + 1, usize::MAX, usize::MAX - 99];
        let offset = match next(4) {
            0 => near[next(near.len())],
            _ => next(SIZE),
        };
        let len = match next(3) {
            0 => next(130),
            1 => next(9000),
            _ => next(20),
        };
        let inside = offset as u128 + len as u128 <= SIZE as u128;
        if next(2) == 0 {
            let data: Vec<u8> = (0..len).map(|i| (turn as usize + i * 7) as u8).collect();
            let done = shared.write_at(offset, &data);
            assert_eq!(done.is_ok(), inside, "write {offset}+{len}");
            if inside {
                model[offset..offset + len].copy_from_slice(&data);
            }
        } else {
            let mut buf = vec![0xAA; len];
            let done = shared.read_at(offset, &mut buf);
            assert_eq!(done.is_ok(), inside, "read {offset}+{len}");
            if inside {
                assert!(buf == model[offset..offset + len])
            } else {
                assert!(matches!(done, Err(Error::OutOfBounds { .. })))
            }
        }
    }
    assert_eq!(bytes(&shared), model);
}

#[test]
fn a_read_beside_a_writer_gives_bytes_that_were_there() {
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    let shared = Shared::<[AtomicU8]>::with_len(3000).unwrap();
    shared.write_at(0, &[1; 3000]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for value in [2, 4, 1] {
                    shared.write_at(0, &[value; 3000]).unwrap();
                    shared[1500].store(8, Ordering::Relaxed);
                }
            }
        });
        let mut buf = [0; 2999];
        for _ in 0..rounds {
            shared.read_at(1, &mut buf).unwrap();
            let known = buf.iter().all(|byte| matches!(byte, 1 | 2 | 4 | 8));
            assert!(known);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_was_written_before_a_release_is_read_after_an_acquire() {
    let rounds: u64 = if cfg!(miri) { 20 } else { 2_000 };
    let message = Shared::<[AtomicU8]>::with_len(1000).unwrap();
    let turn = Shared::<AtomicU64>::new().unwrap();
    let start = Barrier::new(2);
    std::thread::scope(|s| {
        s.spawn(|| {
            start.wait();
            for round in 0..rounds {
                while turn.load(Ordering::Acquire) != 2 * round {
                    std::thread::yield_now();
                }
                message.write_at(0, &[round as u8; 1000]).unwrap();
                turn.store(2 * round + 1, Ordering::Release);
            }
        });
        start.wait();
        let mut buf = [0; 1000];
        for round in 0..rounds {
            while turn.load(Ordering::Acquire) != 2 * round + 1 {
                std::thread::yield_now();
            }
            message.read_at(0, &mut buf).unwrap();
            assert_eq!(buf, [round as u8; 1000], "round {round}");
            turn.store(2 * round + 2, Ordering::Release);
        }
    });
}

#[test]
fn a_range_is_flushed_and_a_protocol_of_ones_own_has_a_slice() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let mut shared = Shared::<[AtomicU8]>::create_slice(&path, 100_000).unwrap();
    // SAFETY: no other process knows the file.
    let bytes = unsafe { shared.as_mut_slice() };
    bytes[99_999] = 7;
    shared.flush_range(99_000..).unwrap();
    shared.flush_range(5..5).unwrap();
    assert!(matches!(
        shared.flush_range(..100_001),
        Err(Error::OutOfBounds { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap()[99_999], 7);
}

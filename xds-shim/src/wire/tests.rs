use super::*;

fn message() -> Vec<u8> {
    let mut m = Vec::new();
    put_bytes(&mut m, 1, b"name");
    m.extend([0x10, 0xac, 0x02]); // 2: 300
    m.extend([0x1d, 1, 2, 3, 4]); // 3: fixed32
    m.extend([0x21, 1, 2, 3, 4, 5, 6, 7, 8]); // 4: fixed64
    put_bytes(&mut m, 99_999, b"unknown");
    put_bytes(&mut m, 1, b"again");
    m
}

#[test]
fn walks_every_wire_type() {
    let m = message();
    let got: Vec<_> = fields(&m)
        .map(|f| f.unwrap())
        .map(|f| (f.number, f.value))
        .collect();
    assert_eq!(
        got,
        vec![
            (1, Value::Bytes(b"name")),
            (2, Value::Varint(300)),
            (3, Value::Fixed),
            (4, Value::Fixed),
            (99_999, Value::Bytes(b"unknown")),
            (1, Value::Bytes(b"again")),
        ]
    );
    let joined: Vec<u8> = fields(&m)
        .flat_map(|f| f.unwrap().record.to_vec())
        .collect();
    assert_eq!(joined, m);
}

#[test]
fn the_last_one_wins() {
    let m = message();
    assert_eq!(string(&m, 1), Ok("again"));
    assert_eq!(string(&m, 5), Ok(""));
    assert_eq!(varint(&m, 2), Ok(300));
    assert_eq!(varint(&m, 7), Ok(0));
}

#[test]
fn every_cut_is_an_error_or_a_record_boundary() {
    let m = message();
    let ends: Vec<usize> = fields(&m)
        .scan(0, |at, f| {
            *at += f.unwrap().record.len();
            Some(*at)
        })
        .collect();
    for cut in 1..m.len() {
        let clean = fields(&m[..cut]).all(|f| f.is_ok());
        assert_eq!(clean, ends.contains(&cut), "cut at {cut}");
    }
}

#[test]
fn refuses_what_is_not_proto3() {
    assert!(
        matches!(fields(&[0x0b]).next(), Some(Err(Error::BadTag { .. }))),
        "group"
    );
    assert!(
        matches!(fields(&[0x00]).next(), Some(Err(Error::BadTag { .. }))),
        "number 0"
    );
    assert!(matches!(
        fields(&[0xff; 12]).next(),
        Some(Err(Error::Overlong(0)))
    ));
    let huge = [
        0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ];
    assert!(matches!(
        fields(&huge).next(),
        Some(Err(Error::Truncated(_)))
    ));
    assert_eq!(string(&[0x0a, 1, 0xff], 1), Err(Error::NotUtf8(1)));
}

#[test]
fn edits_one_record_and_nothing_else() {
    let m = message();
    let out = edit_each::<Error>(&m, 1, |p| Ok((p == b"name").then(|| vec![b'x'; 200])));
    let out = out.unwrap().unwrap();
    let got: Vec<_> = fields(&out).map(|f| f.unwrap()).collect();
    assert_eq!(got[0].bytes().unwrap(), [b'x'; 200]);
    let rest: Vec<u8> = got[1..].iter().flat_map(|f| f.record.to_vec()).collect();
    assert_eq!(rest, m[6..]);
    assert_eq!(edit_each::<Error>(&m, 1, |_| Ok(None)), Ok(None));
}

#[test]
fn drops_records() {
    let m = message();
    let out = edit::<Error>(&m, |f| {
        Ok(if f.number == 1 {
            Edit::Drop
        } else {
            Edit::Keep
        })
    });
    assert!(each(&out.unwrap().unwrap(), 1).next().is_none());
}

proptest::proptest! {
    /// Whatever the bytes: what is walked is all of them, and what is kept stays.
    #[test]
    fn any_bytes_are_walked_or_refused(bytes: Vec<u8>) {
        let walked: Result<Vec<_>, _> = fields(&bytes).collect();
        let kept = edit::<Error>(&bytes, |_| Ok(Edit::Keep));
        match walked {
            Ok(fields) => {
                let records: Vec<u8> = fields.iter().flat_map(|f| f.record).copied().collect();
                proptest::prop_assert_eq!(records, bytes);
                proptest::prop_assert_eq!(kept, Ok(None));
            }
            Err(error) => proptest::prop_assert_eq!(kept, Err(error)),
        }
    }

    /// What is written is read again, and changing one record leaves the others.
    #[test]
    fn what_is_written_is_read(
        records in proptest::collection::vec((1_u32..1 << 29, proptest::collection::vec(0_u8.., 0..300)), 1..8),
        which: proptest::sample::Index,
    ) {
        let mut message = Vec::new();
        for (number, payload) in &records {
            put_bytes(&mut message, *number, payload);
        }
        let read = |message: &[u8]| -> Vec<(u32, Vec<u8>)> {
            let fields = fields(message).map(Result::unwrap);
            fields.map(|f| (f.number, f.bytes().unwrap().to_vec())).collect()
        };
        proptest::prop_assert_eq!(read(&message), records.clone());
        let (number, _) = records[which.index(records.len())];
        let last = records.iter().rfind(|(n, _)| *n == number).map(|(_, p)| p.as_slice());
        proptest::prop_assert_eq!(super::last(&message, number), Ok(last));
        let changed = edit_each::<Error>(&message, number, |_| Ok(Some(b"new".to_vec())));
        let mut expected = records;
        for (_, payload) in expected.iter_mut().filter(|(n, _)| *n == number) {
            *payload = b"new".to_vec();
        }
        proptest::prop_assert_eq!(read(&changed.unwrap().unwrap()), expected);
    }
}

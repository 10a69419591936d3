//! Walking and editing messages: what is kept is kept byte for byte, and what is written is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xds_shim::ads::{DeltaRequest, DeltaResponse, ResponseWriter, status_message};
use xds_shim::wire::{self, Edit, Error};

fuzz_target!(|data: &[u8]| {
    let walked: Result<Vec<_>, _> = wire::fields(data).collect();
    let kept = wire::edit::<Error>(data, |_| Ok(Edit::Keep));
    let emptied = wire::edit::<Error>(data, |_| Ok(Edit::Drop));
    match walked {
        Ok(fields) => {
            let records: Vec<u8> = fields.iter().flat_map(|f| f.record).copied().collect();
            assert_eq!(records, data);
            assert_eq!(kept, Ok(None));
            assert_eq!(emptied.map(Option::unwrap_or_default), Ok(Vec::new()));
            for number in [1, 2, 3] {
                let again = wire::edit_each::<Error>(data, number, |p| Ok(Some(p.to_vec())));
                let again = again.map(|new| new.unwrap_or_else(|| data.to_vec()));
                let again = again.unwrap_or_default();
                let of = |message: &[u8]| -> Vec<Vec<u8>> {
                    let all = wire::each(message, number).flatten();
                    all.map(<[u8]>::to_vec).collect()
                };
                assert_eq!(of(&again), of(data));
                assert_eq!(wire::last(&again, number), wire::last(data, number));
                assert_eq!(wire::varint(&again, number), wire::varint(data, number));
            }
        }
        Err(error) => {
            assert_eq!(kept, Err(error.clone()));
            assert_eq!(emptied, Err(error));
        }
    }
    let raw = data.to_vec().into();
    if let Ok(request) = DeltaRequest::decode(&raw) {
        assert_eq!(
            DeltaRequest::decode(&request.encode()).as_ref(),
            Ok(&request)
        );
        let _ = status_message(request.error_detail.as_deref().unwrap_or_default());
    }
    if let Ok(response) = DeltaResponse::decode(&raw) {
        let mut writer = ResponseWriter::new(&response.type_url, &response.nonce, &response.origin);
        for resource in &response.resources {
            writer.resource(&resource.raw, "lm-1");
        }
        for name in &response.removed {
            writer.removed(name);
        }
        let again = DeltaResponse::decode(&writer.finish());
        let again = again.unwrap_or_default();
        let names = |r: &DeltaResponse| -> Vec<String> {
            r.resources.iter().map(|r| r.name.clone()).collect()
        };
        assert_eq!(
            (names(&again), again.removed),
            (names(&response), response.removed)
        );
        assert_eq!(again.origin, response.origin);
    }
});

use serde_json::json;

use super::*;
use crate::found::tests::found;

#[test]
fn nothing_found_is_said_and_not_made_up() {
    let page = page(&Found::default(), &[]);
    assert!(page.contains("| commit | not measured |"));
    assert!(
        page.contains("Of 26 claims 0 hold, 0 fail, 26 are not measured."),
        "{page}"
    );
    assert!(page.contains("Not measured (`make bench-scale`)."));
    assert!(page.contains("Not measured (`make bench-relay`)."));
    assert!(!page.contains("services\n\nMedians"));
}

#[test]
fn numbers_come_with_their_parts_and_their_spread() {
    let ways = json!({
        "plain": {"heap_bytes": 866_000_000},
        "hand_written": {"heap_bytes": 8_580_000},
        "on_demand": {"heap_bytes": 8_290_000, "spread": {"heap_bytes": [8_200_000, 8_400_000]}},
    });
    let report =
        json!({"commit": "abc", "machine": {"memory_bytes": 24e9 as u64}, "sizes": {"5000": ways}});
    let page = page(&found(report, None, None), &[]);
    assert!(page.contains("| commit | abc |"));
    assert!(page.contains("| memory | 24.0 GB |"));
    assert!(page.contains("## 5,000 services"));
    let heap = "| Envoy: config heap, three services called | 866 MB | 8.58 MB (0.010) | not measured | 8.29 MB (0.010, 0.97) | not measured |";
    assert!(page.contains(heap), "{page}");
    let spread = "| Envoy: config heap, three services called | not measured | not measured | not measured | 8.20 MB to 8.40 MB | not measured |";
    assert!(page.contains(spread), "{page}");
}

#[test]
fn the_other_benches_have_their_tables() {
    let scale = json!({"shim": [{"sidecars": 1000, "services": 5000, "rss_bytes": 4e8, "full_push_cpu_s": 2.5}],
        "shim_partial": [{"sidecars": 5000, "services": 20_000, "rss_bytes": 1e9}],
        "shim_left_out": [{"case": "5000x20000", "what": "full pushes", "why": "too long"}],
        "shim_claims": [{"claim": "none is sent", "holds": false, "shown": "9 bytes"}],
    });
    let relay = json!({
        "cases": [{
            "protocol": "http1", "request_bytes": 0, "body_bytes": 1024,
            "ours": {"requests_per_cpu_s": 62_992.3}, "envoy": {"requests_per_cpu_s": 35_175.2},
            "ratio": {"requests_per_cpu_s": 1.79, "p99_ms": 0.5},
        }],
        "claims": [{"claim": "more than Envoy", "holds": true, "shown": "1.79 times"}],
    });
    let page = page(&found(json!({}), Some(scale), Some(relay)), &[]);
    let row = "| 1,000 | 5,000 | 400 MB | not measured | 2.50 s | not measured |";
    assert!(page.contains(row), "{page}");
    assert!(page.contains("| 5,000 | 20,000 | 1.00 GB |"), "{page}");
    assert!(page.contains("- 5000x20000: full pushes: too long\n"));
    assert!(page.contains("| none is sent | **fails** | 9 bytes |"));
    let row = "| http1 | 0 B | 1.02 kB | 62,992 | 35,175 | 1.79 | not measured | 0.50 |";
    assert!(page.contains(row), "{page}");
    assert!(page.contains("| more than Envoy | holds | 1.79 times |"));
}

#[test]
fn plots_are_shown() {
    let plot = Drawn {
        file: "heap.svg",
        title: "Config heap",
        svg: String::new(),
    };
    let page = page(&Found::default(), &[plot]);
    assert!(page.contains("![Config heap](heap.svg)"));
}

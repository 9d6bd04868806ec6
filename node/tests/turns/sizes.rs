//! Whatever sizes are configured: an engine refuses them by name when it is opened, or it writes the largest
//! request that it takes. One between a small segment's room and the limit was taken, could not be logged,
//! and ended its shard until the next start.

use henge::Engine;
use henge::api::Error;
use henge::wal::Options;

use super::common::Scratch;
use super::{Dice, seeds};

#[test]
fn regression_the_largest_request_is_written_or_the_configuration_refused() {
    let mut opened = 0;
    for seed in seeds(12) {
        let mut dice = Dice(seed);
        let scratch = Scratch::new(&format!("sizes-{seed}"));
        let wal = Options {
            segment_bytes: 4096 * (64 + dice.below(1 << 10)),
            ..Options::default()
        };
        let request_bytes_max = 1_000 + dice.below(3 << 20) as usize;
        let builder = Engine::builder(&scratch.0)
            .wal(wal)
            .request_bytes_max(request_bytes_max);
        let engine = match builder.open() {
            Ok(engine) => engine,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("segment"), "{text}");
                continue;
            }
        };
        opened += 1;
        let db = engine.blocking();
        for size in [request_bytes_max - 100, request_bytes_max / 2] {
            let written = db.put("large", vec![7; size]);
            assert!(written.is_ok(), "{size}: {written:?}");
        }
        let refused = db.put("larger", vec![7; request_bytes_max + 1]);
        let refused = Error::from(refused.expect_err("over the limit"));
        assert!(
            matches!(refused, Error::RequestTooLarge { .. }),
            "{refused:?}"
        );
        assert!(db.put("after", "x").is_ok());
    }
    assert!(opened > 0 || std::env::var("HENGE_SEED").is_ok());
}

//! Redis away: whether a nonce is new cannot be known, and nobody is told that his signature is
//! bad.

use std::time::Duration;

use super::super::super::harness::{READER, Redis, eventually};
use super::signer::Call;
use super::{CredentialsFile, reader};

const LIMIT: Duration = Duration::from_secs(20);

/// What does not hold is refused as ever; what does cannot be served.
async fn assert_unknown(call: &dyn Fn() -> Call, used: &Call) {
    call().send().await.assert_refused(503, 130, "a new nonce");
    used.send().await.assert_refused(503, 130, "a replay, for all that can be known");
    let secrets = [String::new(), String::new()];
    Call { secrets, ..call() }.send().await.assert_refused(401, 32, "forged");
    call().at(-400).send().await.assert_refused(401, 135, "late");
    call().with("oauth_token", "nobody").send().await.assert_refused(401, 32, "nobody's");
}

#[tokio::test]
async fn with_redis_away_a_good_signature_is_unavailable_and_a_bad_one_refused() {
    let mut redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &["--call-timeout", "1s"]).await;
    let call = || reader().call(&server.address);
    let used = call();
    used.send().await.assert_served("with Redis");

    redis.freeze();
    assert_unknown(&call, &used).await;
    redis.thaw();
    eventually("Redis is asked again", LIMIT, async || {
        (call().send().await.status == 204).then_some(())
    })
    .await;
    used.send().await.assert_refused(401, 32, "a replay");

    redis.kill().await;
    assert_unknown(&call, &used).await;
    redis.restart().await;
    eventually("Redis is asked again", LIMIT, async || {
        (call().send().await.status == 204).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_takes_no_nonce_is_away() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    redis.run::<()>("CONFIG SET maxmemory 1").await;
    redis.run::<()>("CONFIG SET maxmemory-policy noeviction").await;
    reader().call(&server.address).send().await.assert_refused(503, 130, "out of memory");
    redis.run::<()>("CONFIG SET maxmemory 0").await;
    reader().call(&server.address).send().await.assert_served("with memory");
    assert_eq!(redis.used(READER).await, Some(1));
}

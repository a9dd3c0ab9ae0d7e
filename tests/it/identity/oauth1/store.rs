//! Without Redis nobody knows whether a nonce is new: valid signatures are 503, not 401.

use std::time::Duration;

use markread_harness::{READER, Redis, eventually};

use super::signer::Call;
use super::{CredentialsFile, reader};

const LIMIT: Duration = Duration::from_secs(20);

/// Asserts that valid signatures are 503, and invalid ones refused as always.
async fn assert_unknown(call: &dyn Fn() -> Call, used: &Call) {
    call().send().await.assert_refused(503, 130, "a new nonce");
    used.send().await.assert_refused(503, 130, "a replay, which is not known as one");
    let secrets = [String::new(), String::new()];
    Call { secrets, ..call() }.send().await.assert_refused(401, 32, "forged");
    call().at(-400).send().await.assert_refused(401, 135, "late");
    call().with("oauth_token", "nobody").send().await.assert_refused(401, 32, "nobody's");
}

#[tokio::test]
async fn without_redis_good_signatures_are_503_and_bad_ones_401() {
    let mut redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &["--call-timeout", "1s"]).await;
    let call = || reader().call(&server.address);
    let used = call();
    used.send().await.assert_served("with Redis");

    redis.freeze();
    assert_unknown(&call, &used).await;
    redis.thaw();
    eventually("Redis is used again", LIMIT, async || {
        (call().send().await.status == 204).then_some(())
    })
    .await;
    used.send().await.assert_refused(401, 32, "a replay");

    redis.kill().await;
    assert_unknown(&call, &used).await;
    redis.restart().await;
    eventually("Redis is used again", LIMIT, async || {
        (call().send().await.status == 204).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_refuses_nonces_is_unavailable() {
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

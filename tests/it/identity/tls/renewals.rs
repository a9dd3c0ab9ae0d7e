//! Certificates are renewed while a server runs: new connections use the new one, and open ones go
//! on.

use std::fs;
use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::certificates::{Authority, Certificate};
use markread_harness::tls::{TlsClient, certificates};
use markread_harness::{MESSAGE, READER, RECIPIENT, Server, eventually};
use tokio::time::sleep;

use super::{Caller, Scene, TRUSTED, is_let_in};

/// Longer than a server takes to notice a change.
const LIMIT: Duration = Duration::from_secs(60);

/// Replaces a file by renaming, as tools do that renew certificates.
fn replace(old: &str, new: &str) {
    let beside = format!("{old}.new");
    fs::copy(new, &beside).unwrap();
    fs::rename(beside, old).unwrap();
}

/// Whether a new connection is served with this certificate.
async fn is_served_with(scene: &Scene, ca: &Authority, certificate: &Certificate) -> bool {
    // A client without a session to resume.
    let client = TlsClient::new(ca, None);
    let Ok(stream) = client.connect(scene.address(), &["h2"]).await else { return false };
    let served = stream.get_ref().1.peer_certificates().unwrap().to_vec();
    served[0] == certificates(&certificate.chain)[0]
}

/// Warnings about a change that was not applied.
fn warnings(server: &Server) -> Vec<String> {
    let file = |line: &String| line.contains("server.pem") || line.contains("server.key");
    let log = server.log().into_iter();
    log.filter(|line| (line.contains("WARN") || line.contains("ERROR")) && file(line)).collect()
}

#[tokio::test]
async fn a_renewed_certificate_is_served_to_new_connections() {
    let scene = Scene::new().await;
    let open = scene.stranger().one_connection(scene.address()).await;
    let open = Caller::new(open, Credentials::token_of(READER));
    open.mark(RECIPIENT, MESSAGE).await.unwrap();
    let new = scene.server_ca.issue("new", "DNS:localhost").await;
    assert!(is_served_with(&scene, &scene.server_ca, &scene.certificate).await);

    replace(&scene.certificate.key, &new.key);
    replace(&scene.certificate.chain, &new.chain);
    eventually("the new one is served", LIMIT, async || {
        // No connection fails while only one of the two files has changed.
        open.mark(RECIPIENT, MESSAGE).await.unwrap();
        assert!(is_let_in(&scene.stranger(), scene.address()).await);
        is_served_with(&scene, &scene.server_ca, &new).await.then_some(())
    })
    .await;
    open.mark(RECIPIENT, MESSAGE + 1).await.unwrap();

    // Again, from another CA, overwritten in place.
    let other_ca = Authority::new().await;
    let newer = other_ca.issue("newer", "DNS:localhost").await;
    fs::copy(&newer.chain, &scene.certificate.chain).unwrap();
    fs::copy(&newer.key, &scene.certificate.key).unwrap();
    eventually("the newer one is served", LIMIT, async || {
        is_served_with(&scene, &other_ca, &newer).await.then_some(())
    })
    .await;
    open.mark(RECIPIENT, MESSAGE + 2).await.unwrap();
    assert!(!is_let_in(&scene.stranger(), scene.address()).await, "this client trusts another CA");
}

#[tokio::test]
async fn a_renewed_client_ca_applies_to_new_connections() {
    let scene = Scene::new().await;
    let old = scene.gateway().await;
    let open = old.one_connection(scene.address()).await;
    let open = Caller::new(open, Credentials::UserId(READER));
    open.mark(RECIPIENT, MESSAGE).await.unwrap();

    let ca = Authority::new().await;
    let certificate = ca.issue("client", &format!("URI:{}", TRUSTED[1])).await;
    let new = TlsClient::new(&scene.server_ca, Some(&certificate));
    assert!(!is_let_in(&new, scene.address()).await);
    replace(&scene.client_ca.file(), &ca.file());
    eventually("the new CA's are let in", LIMIT, async || {
        is_let_in(&new, scene.address()).await.then_some(())
    })
    .await;
    let caller = new.caller(scene.address(), Credentials::UserId(READER));
    caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap();
    // Not even with a session that might be resumed.
    assert!(!is_let_in(&old, scene.address()).await, "of the replaced CA");
    open.mark(RECIPIENT, MESSAGE + 2).await.unwrap();
    assert!(is_let_in(&scene.stranger(), scene.address()).await);

    // Two CAs in a file, while clients move from one to the other.
    let third = Authority::new().await;
    let both = [&ca, &third].map(|ca| fs::read(ca.file()).unwrap()).concat();
    fs::write(scene.client_ca.file(), both).unwrap();
    let certificate = third.issue("client", &format!("DNS:{}", TRUSTED[0])).await;
    let newest = TlsClient::new(&scene.server_ca, Some(&certificate));
    eventually("the third CA's are let in", LIMIT, async || {
        is_let_in(&newest, scene.address()).await.then_some(())
    })
    .await;
    assert!(is_let_in(&new, scene.address()).await);
}

#[tokio::test]
async fn mismatched_files_keep_the_last_certificate_and_warn_once() {
    let scene = Scene::new().await;
    let Certificate { chain, key } = &scene.certificate;
    let new = scene.server_ca.issue("new", "DNS:localhost").await;
    // A copy of the last certificate, whose file is overwritten.
    let old = scene.certificate.with(&scene.server_ca);
    let is_old = async || {
        is_let_in(&scene.stranger(), scene.address()).await
            && is_served_with(&scene, &scene.server_ca, &old).await
    };
    assert!(is_old().await);
    assert_eq!(warnings(&scene.server), [""; 0]);

    replace(key, &new.key);
    eventually("it is logged", LIMIT, async || (!warnings(&scene.server).is_empty()).then_some(()))
        .await;
    assert!(is_old().await, "a key of another certificate");
    // The files are checked over and over, and logged once.
    sleep(Duration::from_secs(5)).await;
    let logged = warnings(&scene.server);
    assert_eq!(logged.len(), 1, "{}", logged.join("\n"));
    assert!(!logged[0].contains("PRIVATE KEY"), "{}", logged[0]);

    let mut logged = 1;
    for (what, contents) in [("trash", "trash"), ("half of it", "-----BEGIN CERTIFICATE-----\nMI")]
    {
        fs::write(chain, contents).unwrap();
        eventually(what, LIMIT, async || (warnings(&scene.server).len() > logged).then_some(()))
            .await;
        logged = warnings(&scene.server).len();
        assert!(is_old().await, "{what}");
    }
    replace(chain, &new.chain);
    eventually("they fit", LIMIT, async || {
        is_served_with(&scene, &scene.server_ca, &new).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broken_client_ca_file_keeps_the_last_ca() {
    let scene = Scene::new().await;
    let gateway = scene.gateway().await;
    let other = Authority::new().await;
    let foreign = other.issue("foreign", "DNS:gateway.example").await;
    let foreign = TlsClient::new(&scene.server_ca, Some(&foreign));
    let mut logged = 0;
    for contents in ["trash", ""] {
        fs::write(scene.client_ca.file(), contents).unwrap();
        let about = |line: &String| line.contains("WARN") && line.contains("ca.pem");
        let warnings = || scene.server.log().into_iter().filter(about).count();
        eventually("it is logged", LIMIT, async || (warnings() > logged).then_some(())).await;
        logged = warnings();
        assert!(is_let_in(&gateway, scene.address()).await, "{contents:?}");
        assert!(!is_let_in(&foreign, scene.address()).await, "{contents:?}");
    }
}

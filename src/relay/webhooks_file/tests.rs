use std::fs;

use tempfile::TempDir;
use tokio::time::{Duration, sleep, timeout};

use super::*;
use crate::relay::webhook::Audience;

/// A folder with a webhooks file and secrets.
struct Folder(TempDir);

const SECRET: &str = "hush-consumer-secret";
const ONE: &str =
    "[[webhook]]\nname = \"one\"\nurl = \"https://a.example/\"\nsecret_file = \"secret\"\n";
const TWO: &str =
    "[[webhook]]\nname = \"two\"\nurl = \"https://b.example/\"\nsecret_file = \"secret\"\n";

impl Folder {
    fn new(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("secret", SECRET);
        folder.write("webhooks.toml", text);
        folder
    }

    /// Writes a file, as a whole.
    fn write(&self, name: &str, text: &str) {
        let new = self.0.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.0.path().join(name)).unwrap();
    }

    fn read(&self) -> Result<WebhooksFile, String> {
        WebhooksFile::read(&self.0.path().join("webhooks.toml"), Targets::default())
    }

    fn webhooks(&self) -> Webhooks {
        self.read().unwrap().watch().borrow().clone()
    }

    fn problem(&self) -> String {
        let problem = self.read().unwrap_err();
        assert!(!problem.contains("hush") && !problem.contains('\n'), "{problem}");
        problem
    }
}

#[test]
fn a_file_has_any_number_of_webhooks() {
    assert!(Folder::new("# none").webhooks().is_empty());
    let all = "users = \"all\"\necho = true\nproxy = \"http://u:p@proxy.example:3128\"\n";
    let folder = Folder::new(&format!("{ONE}{all}{TWO}users = \"subscribed\"\n"));
    let webhooks = folder.webhooks();
    let names: Vec<_> = webhooks.iter().map(|webhook| webhook.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    let audiences = webhooks.iter().map(|webhook| (webhook.audience, webhook.echo));
    assert!(audiences.eq([(Audience::All, true), (Audience::Subscribed, false)]));
    assert_ne!(webhooks[0].settings, webhooks[1].settings);
    assert_eq!(webhooks[0].settings.len(), 64);
    assert!(!format!("{webhooks:?} {:?}", folder.read().unwrap()).contains("hush"));
    // Absolute names are taken as they are.
    let secret = folder.0.path().join("secret");
    folder.write("webhooks.toml", &ONE.replace("\"secret\"", &format!("{secret:?}")));
    assert_eq!(folder.webhooks().len(), 1);
}

#[test]
fn a_mistake_is_named_with_its_line_and_member() {
    let hundred: String = (0..101).map(|n| ONE.replace("one", &format!("w{n}"))).collect();
    let with = |line: &str| format!("{ONE}{line}\n");
    for (text, problem) in [
        (String::new(), "is empty"),
        ("hush".to_owned(), "line 1: "),
        (format!("{ONE}\n[[webhook"), "line 6: "),
        (with("name = \"again\""), "line 5: "),
        ("[[webhooks]]".to_owned(), "line 1: \"webhooks\": it must have [[webhook]]"),
        (format!("top = 1\n{ONE}"), "line 1: \"top\": it must have [[webhook]]"),
        ("webhook = 1".to_owned(), "line 1: \"webhook\": it must have [[webhook]]"),
        ("webhook = [1]".to_owned(), "line 1: webhook must be a table"),
        (with("secret = \"hush\""), "line 5: \"secret\" is not a member"),
        (with("\"a\\nb\" = 1"), "line 5: \"a\\nb\" is not a member"),
        (with(&format!("{} = 1", "x".repeat(1000))), "xxx\"… is not a member"),
        (with("echo = \"hush\""), "line 5: echo must be true or false"),
        (with("users = \"hush\""), "line 5: users must be \"all\" or \"subscribed\""),
        (with("users = true"), "line 5: users must be a string"),
        (with("ca_file = [\"hush\"]"), "line 5: ca_file must be a string"),
        (with("ca_file = \"\""), "line 5: ca_file must be a string that is not empty"),
        (with("cert_file = \"c\""), "line 1: [[webhook]] 1: cert_file and key_file"),
        (with("ca_file = \"none\""), "[[webhook]] 1 \"one\": ca_file \""),
        (with("ca_file = \"secret\""), "1 \"one\": ca_file contains no PEM certificate"),
        (with("proxy = \"hush\""), "[[webhook]] 1 \"one\": proxy must be an absolute http://"),
        (with("standard_secret_file = \"secret\""), "standard_secret_file must contain whsec_"),
        (ONE.replace("\"one\"", "\"o ne\""), "line 2: name must be 1 to 64"),
        (ONE.replace("\"one\"", "12345"), "line 2: name must be a string"),
        (
            ONE.replace("https:", "http:"),
            "1 \"one\": url must be an absolute https:// URL (see --all",
        ),
        (ONE.replace("a.example", "0x7f.1"), "1 \"one\": url leads to an address that is loopback"),
        (ONE.replace("a.example", "hush@a"), "[[webhook]] 1 \"one\": url must not have a user"),
        (ONE.replace("name = \"one\"\n", ""), "line 1: [[webhook]] 1 has no name"),
        (format!("{ONE}\n[[webhook]]"), "line 6: [[webhook]] 2 has no secret_file"),
        (ONE.replace("secret_file = \"secret\"\n", ""), "line 1: [[webhook]] 1 has no secret_file"),
        (format!("{ONE}{ONE}"), "[[webhook]] 2 \"one\": name is that of another webhook"),
        (hundred, "has 101 webhooks: it must have at most 100"),
    ] {
        let found = Folder::new(&text).problem();
        assert!(found.contains(problem), "{problem}: {found}");
        assert!(found.starts_with("--webhooks /"), "{found}");
    }
    let folder = Folder::new(ONE);
    let path = folder.0.path().join("webhooks.toml");
    fs::write(&path, b"# \xff").unwrap();
    assert!(folder.problem().contains("line 1: it is not UTF-8"));
    fs::remove_file(&path).unwrap();
    assert!(folder.problem().contains("cannot be read"));
}

#[test]
fn a_secret_is_the_file_without_the_newline() {
    let folder = Folder::new(ONE);
    let before = folder.webhooks()[0].settings.clone();
    folder.write("secret", &format!("{SECRET}\n"));
    assert_eq!(folder.webhooks()[0].settings, before);
    folder.write("secret", "x\n");
    assert_ne!(folder.webhooks()[0].settings, before);
    folder.write("secret", "\n");
    let problem = "line 4, [[webhook]] 1 \"one\": secret_file must contain more than a newline";
    assert!(folder.problem().contains(problem), "{}", folder.problem());
    folder.write("secret", "");
    assert!(folder.problem().contains("is empty"));
    folder.write("secret", &"hush".repeat(300_000));
    assert!(folder.problem().contains("is larger than 1 MiB"));
}

#[test]
fn standard_secrets_are_one_or_two_lines() {
    let folder = Folder::new(&format!("{ONE}standard_secret_file = \"standard\"\n"));
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
    for text in [secret.trim().to_owned(), secret.to_owned(), secret.repeat(2)] {
        folder.write("standard", &text);
        assert_eq!(folder.webhooks().len(), 1, "{text:?}");
    }
    for text in [secret.repeat(3), format!("{secret}\n"), "whsec_hush".to_owned(), "\n".to_owned()]
    {
        folder.write("standard", &text);
        assert!(folder.problem().contains("standard_secret_file must contain"), "{text:?}");
    }
}

/// Runs the file's watch, and returns the webhooks as they change.
fn run(folder: &Folder) -> (watch::Receiver<Webhooks>, Reread, tokio::task::JoinHandle<()>) {
    let file = folder.read().unwrap();
    let (webhooks, reread) = (file.watch(), Reread::default());
    let handle = reread.clone();
    (webhooks, reread, tokio::spawn(async move { file.run(&handle).await }))
}

/// Returns the webhooks after the next change.
async fn next(webhooks: &mut watch::Receiver<Webhooks>) -> Webhooks {
    timeout(Duration::from_secs(10), webhooks.changed()).await.unwrap().unwrap();
    webhooks.borrow_and_update().clone()
}

#[tokio::test]
async fn an_unchanged_webhook_stays_the_same_value() {
    let folder = Folder::new(&format!("{ONE}{TWO}"));
    let (mut changes, _reread, running) = run(&folder);
    let first = changes.borrow_and_update().clone();
    // Other order, other comments: the second one changes.
    let other = TWO.replace("b.example", "c.example");
    folder.write("webhooks.toml", &format!("{other}\n# a comment\n{ONE}"));
    let second = next(&mut changes).await;
    assert!(Arc::ptr_eq(&first[0], &second[1]));
    assert!(!Arc::ptr_eq(&first[1], &second[0]));
    assert_ne!(first[1].settings, second[0].settings);
    // A secret that the file names.
    folder.write("secret", "another consumer secret");
    let third = next(&mut changes).await;
    assert!(!Arc::ptr_eq(&second[1], &third[1]));
    assert_ne!(second[1].settings, third[1].settings);
    // Whom it is for changes nothing about a check.
    folder.write("webhooks.toml", &format!("{ONE}users = \"all\"\n"));
    let fourth = next(&mut changes).await;
    assert_eq!(fourth.len(), 1);
    assert!(!Arc::ptr_eq(&third[1], &fourth[0]));
    assert_eq!(third[1].settings, fourth[0].settings);
    running.abort();
}

#[tokio::test]
async fn a_mistake_keeps_the_last_good_webhooks() {
    let folder = Folder::new(ONE);
    let (mut changes, reread, running) = run(&folder);
    let first = changes.borrow_and_update().clone();
    for text in ["[[webhook]]", "", &ONE.replace("https", "ftp")] {
        folder.write("webhooks.toml", text);
        sleep(Duration::from_millis(1200)).await;
        assert!(!changes.has_changed().unwrap(), "{text}");
    }
    fs::remove_file(folder.0.path().join("secret")).unwrap();
    folder.write("webhooks.toml", &format!("{ONE}{TWO}"));
    sleep(Duration::from_millis(1200)).await;
    assert!(!changes.has_changed().unwrap(), "the secret is missing");
    // The secret alone is enough.
    folder.write("secret", SECRET);
    reread.request();
    let second = next(&mut changes).await;
    assert_eq!(second.len(), 2);
    assert!(Arc::ptr_eq(&first[0], &second[0]));
    running.abort();
}

fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[tokio::test]
async fn a_pipe_is_a_mistake_and_does_not_end_the_watch() {
    let folder = Folder::new(ONE);
    let (mut changes, reread, running) = run(&folder);
    changes.borrow_and_update();
    let secret = folder.0.path().join("secret");
    fs::remove_file(&secret).unwrap();
    pipe(&secret);
    let problem = "line 4, [[webhook]] 1 \"one\": secret_file ";
    let found = folder.problem();
    assert!(found.contains(problem) && found.contains("is not a regular file"), "{found}");
    let path = folder.0.path().join("webhooks.toml");
    fs::remove_file(&path).unwrap();
    pipe(&path);
    assert!(folder.problem().contains("is not a regular file"));
    sleep(Duration::from_millis(700)).await;
    assert!(!changes.has_changed().unwrap());
    fs::remove_file(&secret).unwrap();
    folder.write("secret", SECRET);
    folder.write("webhooks.toml", &format!("{ONE}{TWO}"));
    reread.request();
    assert_eq!(next(&mut changes).await.len(), 2);
    running.abort();
}

#[test]
fn debug_output_of_a_table_has_no_url() {
    let text = ONE.replace("a.example/", "a.example/?key=hush");
    let text = format!("{text}proxy = \"http://u:hush@proxy.example:3128\"\n");
    let entries = entries::parse(text.as_bytes(), Path::new("")).unwrap();
    let text = format!("{entries:?}");
    assert!(text.contains("one") && !text.contains("hush"), "{text}");
}

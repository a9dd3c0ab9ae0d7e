//! Empty variables are unset, but for those of identity; empty values of flags are refused.

use markread_harness::binary::command;

use super::{Files, refused, run};

/// The start of a command that fails for its last setting, and the variables that its flags set.
struct Failing<'a> {
    args: Vec<&'a str>,
    line: String,
}

impl<'a> Failing<'a> {
    async fn new(args: &[&'a str]) -> Self {
        Self { args: args.to_vec(), line: refused(2, args, &[]).await }
    }

    /// Whether the command line has this variable's flag.
    fn sets(&self, variable: &str) -> bool {
        self.args.contains(&&*flag(variable))
    }
}

fn flag(variable: &str) -> String {
    format!("--{}", variable["MARKREAD_".len()..].to_lowercase().replace('_', "-"))
}

fn is_identity(variable: &str) -> bool {
    let name = &variable["MARKREAD_".len()..];
    name.starts_with("JWT_")
        || name.starts_with("OAUTH1_")
        || ["TRUSTED_CLIENT", "CLIENT_CA"].contains(&name)
}

/// Every variable in the help of a command.
async fn variables(name: &[&str]) -> Vec<String> {
    let help = command(name).arg("--help").output().await.unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let named = help.split("[env: ").skip(1).map(|rest| rest.split(']').next().unwrap().to_owned());
    let named: Vec<_> = named.collect();
    assert!(named.len() > 1 && named.iter().all(|name| name.starts_with("MARKREAD_")), "{named:?}");
    named
}

#[tokio::test]
async fn every_empty_variable_is_unset_or_refused() {
    let files = Files::new();
    let secret = files.secret();
    let mark = ["mark", "--recipient", "1", "--last-read-event-id", "1", "--expect-status", "NO"];
    let failing = [
        // The last thing that is looked at, so that the other settings are good.
        &[
            "serve",
            "--jwt-secret-file",
            &secret,
            "--replicas-ack",
            "1",
            "--replicas-ack-timeout",
            "1h",
        ][..],
        &["serve"],
        &["token", "--user", "0", "--jwt-secret-file", &secret],
        &mark,
        &["state", "--recipient", "x"],
        &["watch", "--after", "x"],
        &["healthcheck", "--listen", "x"],
        &["relay", "--webhooks", "/absent"],
        &["webhook", "check", "crm", "--webhooks", "/absent"],
    ];
    let mut tried = 0;
    for args in failing {
        let failing = Failing::new(args).await;
        let name = if args[0] == "webhook" { &args[..2] } else { &args[..1] };
        for variable in variables(name).await {
            let line = refused(2, args, &[(&variable, "")]).await;
            if is_identity(&variable) && !failing.sets(&variable) {
                let flag = flag(&variable);
                let expected = format!("{variable} is empty: {flag} must have a value");
                assert!(line.contains(&expected), "{args:?}: {line}");
            } else {
                assert_eq!(line, failing.line, "{args:?} with an empty {variable}");
            }
            tried += 1;
        }
    }
    assert!(tried > 120, "{tried} variables");
}

#[tokio::test]
async fn a_blank_setting_of_identity_is_refused_too() {
    let files = Files::new();
    let secret = files.secret();
    let start = ["serve", "--jwt-secret-file", &secret];
    for blank in [" ", "\t", "\n"] {
        for name in ["ISSUER", "AUDIENCE"] {
            let line = refused(2, &start, &[(&format!("MARKREAD_JWT_{name}"), blank)]).await;
            assert!(line.contains(&format!("MARKREAD_JWT_{name} is empty")), "{line}");
        }
    }
}

#[tokio::test]
async fn a_required_option_whose_variable_is_empty_is_named() {
    let files = Files::new();
    let secret = files.secret();
    for (args, variable) in [
        (&["token", "--jwt-secret-file", &secret][..], "MARKREAD_USER"),
        (&["token", "--user", "1"], "MARKREAD_JWT_SECRET_FILE"),
        (&["mark", "--recipient", "1"], "MARKREAD_LAST_READ_EVENT_ID"),
        (&["relay"], "MARKREAD_WEBHOOKS"),
        (&["webhook", "redeliver", "crm"], "MARKREAD_WEBHOOKS"),
    ] {
        let line = refused(2, args, &[(variable, "")]).await;
        let expected = format!("{variable} is empty: {} must have a value", flag(variable));
        assert!(line.contains(&expected), "{line}");
    }
}

#[tokio::test]
async fn an_empty_value_of_a_flag_is_refused() {
    let files = Files::new();
    let secret = files.secret();
    let start = ["serve", "--jwt-secret-file", &secret];
    for flag in [
        "--jwt-issuer",
        "--jwt-audience",
        "--jwt-secret-file",
        "--trusted-client",
        "--client-ca",
        "--redis-url",
        "--redis-username",
        "--redis-password-file",
        "--stream",
        "--listen",
        "--public-url",
    ] {
        let args = [if flag == start[1] { &start[..1] } else { &start }, &[flag, ""]].concat();
        let line = refused(2, &args, &[]).await;
        assert!(line.contains(flag), "{flag}: {line}");
    }
    // The one that may be empty: the next setting is refused.
    let args = [&start[..], &["--user-key-prefix", "", "--stream", ""]].concat();
    assert!(refused(2, &args, &[]).await.contains("--stream is empty"));
    let line = refused(2, &["healthcheck", "--tls-server-name", ""], &[]).await;
    assert!(line.contains("--tls-server-name is empty"), "{line}");
}

#[tokio::test]
async fn help_names_empty_variables_too() {
    let all = run(&["serve", "--help"], &[]).await;
    let empty = [("MARKREAD_LISTEN", ""), ("MARKREAD_JWT_ISSUER", ""), ("MARKREAD_DEV", "")];
    let with_empty = run(&["serve", "--help"], &empty).await;
    assert!(with_empty.status.success());
    assert_eq!(with_empty.stdout, all.stdout);
}

use super::*;

fn none() -> [(String, String); 0] {
    []
}

pub(super) fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A folder with a settings file.
pub(super) fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

pub(super) fn mistakes(error: ConfigError) -> Vec<String> {
    match error {
        ConfigError::Wrong(mistakes) => mistakes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_stand_where_nothing_is_set() {
    let settings = Settings::load_from(None, none()).unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.channels()[0].kind, ChannelKind::Console);
    assert_eq!(settings.runner().patience, Patience::default());
}

#[test]
fn a_file_sets_every_key_and_the_environment_stands_above_it() {
    let (folder, file) = file(
        r#"
        data_folder = "data"
        bundle = "/opt/bundle"
        listen = "0.0.0.0:80"
        listen_open = true
        [log]
        filter = "warn,castwatch_core=debug"
        json = true
        [embedded]
        partitions = 16
        durability = "normal"
        batch = 64
        [runner]
        save_every_ms = 2_500
        max_refused_in_a_row = 7
        [retry]
        first_ms = 1
        most_ms = 2
        budget_ms = 3
        [charts]
        language = "en"
        formats = ["png"]
        [[channel]]
        kind = "file"
        path = "alerts.jsonl"
        [[channel]]
        kind = "webhook"
        name = "line-1"
        url = "https://hooks.example.com/T0/hush-url"
        secret_file = "key"
        secret_env = "KEY"
        secret = "hush-inline"
        timeout_ms = 500
        "#,
    );
    std::fs::write(folder.path().join("key"), "hush-file\n").unwrap();
    let set = variables(&[("KEY", "hush-env")]);
    let settings = Settings::load_from(Some(&file), set.clone()).unwrap();
    assert_eq!(settings.data, folder.path().join("data"), "paths are relative to the file");
    assert_eq!(settings.bundle.as_deref(), Some(Path::new("/opt/bundle")));
    assert_eq!((settings.listen, settings.listen_open), ("0.0.0.0:80".parse().unwrap(), true));
    assert_eq!(settings.log, Log { filter: "warn,castwatch_core=debug".into(), json: true });
    let durability = crate::Durability::Normal;
    assert_eq!(settings.embedded(), EmbeddedSettings { partitions: 16, durability, batch: 64 });
    let runner = settings.runner();
    assert_eq!((runner.save_every, runner.max_refused_in_a_row), (Duration::from_millis(2500), 7));
    let ms = Duration::from_millis;
    assert_eq!(runner.patience, Patience { first: ms(1), most: ms(2), budget: ms(3) });
    assert_eq!(settings.charts, Charts { language: Language::En, formats: vec![Format::Png] });
    let [alerts, webhook] = settings.channels().try_into().unwrap();
    assert_eq!(alerts.kind, ChannelKind::File { path: folder.path().join("alerts.jsonl") });
    assert_eq!((alerts.name.as_str(), webhook.name.as_str()), ("file", "line-1"));
    let ChannelKind::Webhook { url, secrets, timeout } = webhook.kind else { panic!("{webhook:?}") };
    assert_eq!(url, "https://hooks.example.com/T0/hush-url");
    let secrets: Vec<&str> = secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["hush-inline", "hush-env", "hush-file"]);
    assert_eq!(timeout, ms(500));
    let shown = format!("{settings:?} {settings:#?}");
    assert!(shown.contains("line-1") && !shown.contains("hush"), "{shown}");

    let over = variables(&[
        ("CASTWATCH_DATA_FOLDER", "12 자료"),
        ("CASTWATCH_LISTEN", "127.0.0.1:0"),
        ("CASTWATCH_LISTEN_OPEN", "false"),
        ("CASTWATCH_LOG", "error"),
        ("CASTWATCH_EMBEDDED_PARTITIONS", "2"),
        ("CASTWATCH_CHARTS_FORMATS", "png, svg"),
        ("CASTWATCH_RETRY_MOST_MS", "9"),
        ("CASTWATCH_BUNDLE", r"C:\new"),
    ]);
    let settings = Settings::load_from(Some(&file), set.into_iter().chain(over)).unwrap();
    assert_eq!(settings.data, Path::new("12 자료"), "variables are relative to where castwatch runs");
    assert_eq!(settings.bundle.as_deref(), Some(Path::new(r"C:\new")));
    assert_eq!((settings.listen, settings.listen_open), ("127.0.0.1:0".parse().unwrap(), false));
    assert_eq!((settings.log.filter.as_str(), settings.log.json), ("error", true));
    assert_eq!((settings.embedded.partitions, settings.embedded.batch), (2, 64));
    assert_eq!(settings.charts.formats, [Format::Png, Format::Svg]);
    assert_eq!((settings.retry.most, settings.retry.budget), (ms(9), ms(3)));
}

#[test]
fn every_mistake_is_named_at_once() {
    let (_folder, file) = file(
        r#"data_foldr = "x"
listen = "8080"
[log]
filter = "castwatch=loud"
[embedded]
partitions = 0
durability = "ful"
[charts]
formats = ["gif"]
[[channel]]
kind = "mail"
to = "x"
[[channel]]
kind = "webhook"
url = "hooks.example.com"
[[channel]]
kind = "webhook"
url = "https://x"
secret_env = "NOT_SET"
secret_file = "no/such/file"
[[channel]]
kind = "file"
"#,
    );
    let set = variables(&[
        ("CASTWATCH_EMBEDDED_BATCH", "many"),
        ("CASTWATCH_EMBEDDED_PARTITONS", "4"),
        ("CASTWATCH_RUNNER_SAVE_EVERY_MS", "1"),
        ("CASTWATCH_DATA", "somebody else's"),
    ]);
    let said = mistakes(Settings::load_from(Some(&file), set).unwrap_err());
    let expected = [
        ":1: `data_foldr` is not known; did you mean `data_folder`?",
        ":2: `listen` must be an address and a port, such as 127.0.0.1:8080",
        ":4: `log.filter` log filter `castwatch=loud` is not one",
        ":6: `embedded.partitions` must be 1 to 1024, not 0",
        ":7: `embedded.durability` must be one of full, normal, not `ful`",
        ":9: `charts.formats` must be of svg and png, not `gif`",
        ":11: `channel[0].kind` must be one of console, file, webhook, not `mail`",
        ":13: `channel[1].secret_file` is missing: the file with the secret",
        ":15: `channel[1].url` must be https://... or http://...",
        ":17: `channel[2].kind` is a second channel `webhook`: give it a `name` of its own",
        ":19: `channel[2].secret_env` names the variable `NOT_SET`, which is not set",
        ":20: `channel[2].secret_file` names `no/such/file`, which can't be read",
        ":21: `channel[3].path` is missing: the file that alerts are appended to",
        "CASTWATCH_EMBEDDED_BATCH: `embedded.batch` must be a whole number of 0 or more, not the text \"many\"",
        "CASTWATCH_EMBEDDED_PARTITONS is not known; known are CASTWATCH_DATA_FOLDER,",
        "CASTWATCH_RUNNER_SAVE_EVERY_MS: `runner.save_every_ms` must be 10 to 3600000, not 1",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "said {said}\nnot  {expected}");
    }
}

#[test]
fn a_file_that_is_not_there_or_not_toml_is_named() {
    let error = Settings::load_from(Some(Path::new("no/such.toml")), none()).unwrap_err();
    assert!(error.to_string().contains("no/such.toml"), "{error}");
    let (_folder, file) = file("listen = \n");
    let said = mistakes(Settings::load_from(Some(&file), none()).unwrap_err());
    assert!(said[0].contains("castwatch.toml:1: not TOML"), "{said:?}");
}

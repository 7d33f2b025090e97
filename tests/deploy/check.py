"""Holds the alert rules, their tests and the dashboard to what castwatch exports.

    check.py METRICS [PROMETHEUS]

METRICS is a page of /metrics. With PROMETHEUS, that program scrapes a running line, and every rule
and every panel must be a query that it answers.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import yaml

RULES = pathlib.Path("deploy/prometheus/castwatch.rules.yml")
TESTS = pathlib.Path("tests/deploy/rules.test.yml")
DASHBOARD = pathlib.Path("deploy/grafana/dashboards/castwatch.json")
RUNBOOKS = pathlib.Path("docs/operators.md")
# What a line that has just begun, and has no trouble, need not answer: there is nothing to say.
MAY_BE_EMPTY = {"rule"}

wrong = []


def check(holds, words):
    if not holds:
        wrong.append(words)


def exported(page):
    names = set()
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names.add(name)
            if kind == "histogram":
                names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def rules():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries():
    """Every expression of the rules and the dashboard: what it is, its name, itself."""
    found = [("rule", rule["alert"], rule["expr"]) for rule in rules()]
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            found.append(("panel", panel["title"], target["expr"]))
    return found


def names():
    known = exported(pathlib.Path(sys.argv[1]).read_text())
    used = set()
    for kind, name, expr in queries():
        for metric in re.findall(r"\b(?:castwatch|process)_\w+", expr):
            used.add(metric)
            check(metric in known, f"{kind} `{name}` asks for {metric}, which castwatch does not export")
    print(f"names: {len(used)} metrics are asked for, of {len(known)} exported")


def runbooks():
    anchors = {
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", RUNBOOKS.read_text(), re.M)
    }
    tested = {}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            fires = tested.setdefault(case["alertname"], set())
            fires.add(bool(case["exp_alerts"]))
    for rule in rules():
        name, notes = rule["alert"], rule["annotations"]
        file, _, anchor = notes["runbook_url"].partition("#")
        check(file == str(RUNBOOKS) and anchor in anchors, f"{name}: there is no {notes['runbook_url']}")
        check(tested.get(name) == {True, False}, f"{name} needs a test that it fires and one that it does not")
        for text in (notes["summary"], notes["description"]):
            check(" / " in text and re.search("[가-힣]", text), f"{name}: `{text}` is not in both languages")
    print(f"rules: {len(rules())}, each with a runbook, both languages, a test that it fires and one that it does not")


def dashboard():
    board = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    check(len(ids) == len(set(ids)), "panels share an id")
    taken = set()
    for panel in board["panels"]:
        place, title = panel["gridPos"], panel["title"]
        check(place["x"] + place["w"] <= 24, f"panel `{title}` is wider than the page")
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        check(not cells & taken, f"panel `{title}` lies on another one")
        taken |= cells
        if panel["type"] != "row":
            check(panel["targets"], f"panel `{title}` asks for nothing")
            check(panel["datasource"]["uid"] == "prometheus", f"panel `{title}` has another data source")
    print(f"dashboard: {len(ids)} panels, none on another")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.load(answer)


def until(what, holds, seconds=40):
    for _ in range(seconds * 5):
        try:
            if holds():
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"{what}: not in {seconds} s")


def real(prometheus):
    line_port, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = yaml.safe_load(pathlib.Path("deploy/prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES.absolute())]
        del config["alerting"]
        scrape = config["scrape_configs"][0]
        del scrape["dns_sd_configs"]
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{line_port}"]}]
        file = pathlib.Path(folder, "prometheus.yml")
        file.write_text(yaml.safe_dump(config))
        line = subprocess.Popen(["target/release/examples/telemetry", f"127.0.0.1:{line_port}"])
        server = subprocess.Popen(
            [prometheus, f"--config.file={file}", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        )
        try:
            series = "/api/v1/query?query=" + urllib.parse.quote("count_over_time(castwatch_ready[1m]) > 8")
            until("Prometheus sees the line", lambda: ask(port, series)["data"]["result"])
            answered = empty = 0
            for kind, name, expr in queries():
                expr = expr.replace("$__rate_interval", "15s").replace("$stage", ".*")
                try:
                    answer = ask(port, "/api/v1/query?query=" + urllib.parse.quote(expr))
                except urllib.error.HTTPError as error:
                    check(False, f"{kind} `{name}`: {error.read().decode()}")
                    continue
                answered += 1
                empty += not answer["data"]["result"]
                check(answer["data"]["result"] or kind in MAY_BE_EMPTY, f"{kind} `{name}` shows nothing: {expr}")
            loaded = [r for g in ask(port, "/api/v1/rules")["data"]["groups"] for r in g["rules"]]
            check(len(loaded) == len(rules()), "Prometheus did not load every rule")
            for rule in loaded:
                check(rule["health"] == "ok", f"rule {rule['name']}: {rule.get('lastError')}")
            target = ask(port, "/api/v1/targets")["data"]["activeTargets"][0]
            check(target["health"] == "up", f"the line is {target['health']}: {target['lastError']}")
            print(f"a real Prometheus: {answered} queries answered, {empty} of them with nothing to say (rules that don't fire)")
        finally:
            for process in (server, line):
                process.terminate()
                process.wait()


names()
runbooks()
dashboard()
if len(sys.argv) > 2 and sys.argv[2]:
    real(sys.argv[2])
else:
    print("skipped: no Prometheus is installed to answer the queries")
for words in wrong:
    print("WRONG:", words)
sys.exit(bool(wrong))

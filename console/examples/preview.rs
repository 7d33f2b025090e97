//! The page with made-up shots, to look at it and to test it without a line:
//! `cargo run --release -p castwatch-console --example preview -- 127.0.0.1:8080 400`
//! listens there and makes a shot every 400 ms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use bytes::Bytes;
use castwatch_console::{Feed, check_address, router, serve};
use castwatch_core::payload::{Explanation, Words};
use castwatch_core::{Objects, Records, Verdict};
use common::{Memory, alert, explanation, feed_one, score, words};

const MACHINES: [(&str, &str); 6] = [
    ("DCM-01", "8412"),
    ("DCM-02", "8722"),
    ("DCM-03", "8573"),
    ("DCM-04", "8917"),
    ("DCM-05", "8600"),
    ("주조기 6", "A-3"),
];

/// So many shots were made before anybody looks.
const BEFORE: u64 = 1200;

/// Causes: reading, what is wrong, where to look, what to do.
fn causes() -> [[Words; 4]; 4] {
    [
        [
            words("주조 압력", "Casting pressure"),
            words(
                "주조 압력이 251 bar로 이 금형의 평소 값(331 ± 2 bar)보다 80 bar 낮습니다.",
                "Casting pressure is 251 bar, 80 bar below what is usual at this die (331 ± 2 bar).",
            ),
            words("사출 유닛 · 증압기", "Injection unit · intensifier"),
            words(
                "증압기 압력과 어큐뮬레이터 질소압을 점검하고 325~337 bar로 맞추세요.",
                "Check the intensifier and the accumulator's nitrogen, and bring it to 325 to 337 bar.",
            ),
        ],
        [
            words("슬리브 온도", "Sleeve temperature"),
            words(
                "슬리브 온도가 188 °C로 평소 값(291 ± 9 °C)보다 낮습니다. 재가동 후 2번째 샷입니다.",
                "Sleeve temperature is 188 °C, below its usual 291 ± 9 °C. It is the 2nd shot after a restart.",
            ),
            words("슬리브 · 플런저", "Sleeve · plunger"),
            words(
                "슬리브가 270 °C가 될 때까지 예열 샷을 더 하고, 그 사이 부품은 따로 두세요.",
                "Make more warm-up shots until the sleeve is at 270 °C, and keep their parts apart.",
            ),
        ],
        [
            words("고속 구간 속도", "Fast-shot speed"),
            words(
                "고속 구간 속도가 101 cm/s로 평소 값(114 ± 1 cm/s)보다 낮습니다.",
                "Fast-shot speed is 101 cm/s, below its usual 114 ± 1 cm/s.",
            ),
            words("사출 유닛 · 유압 밸브", "Injection unit · hydraulic valve"),
            words(
                "고속 전환 밸브와 작동유 온도를 점검하세요.",
                "Check the fast-shot valve and the temperature of the hydraulic oil.",
            ),
        ],
        [
            words("하금형 온도 2", "Lower die temperature 2"),
            words(
                "하금형 온도 2가 264 °C로 평소 값(211 ± 4 °C)보다 높습니다.",
                "Lower die temperature 2 is 264 °C, above its usual 211 ± 4 °C.",
            ),
            words("금형 냉각 회로 2", "Die cooling circuit 2"),
            words(
                "냉각 회로 2의 유량과 막힘을 확인하고 이형제 분무 시간을 점검하세요.",
                "Check the flow of cooling circuit 2 and the spray time of the release agent.",
            ),
        ],
    ]
}

/// A chart like the line's: bars for and against a defect.
fn chart(explanation: &Explanation) -> String {
    let rows: String = [("1", 210, true), ("2", 96, true), ("3", 40, false), ("4", 31, true), ("5", 18, false)]
        .iter()
        .enumerate()
        .map(|(i, (name, width, towards))| {
            let (x, colour) = if *towards { (300, "#d55e00") } else { (300 - width, "#0072b2") };
            format!(
                "<text x='40' y='{}' font-size='18'>{name}. {}</text><rect x='{x}' y='{}' width='{width}' height='26' fill='{colour}'/>",
                100 + i * 52,
                if i == 0 { &explanation.attributions[0].name.en } else { "reading" },
                81 + i * 52
            )
        })
        .collect();
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 600 360' font-family='sans-serif'><rect width='600' height='360' fill='#fff'/>\
         <text x='40' y='44' font-size='22' font-weight='bold'>{} · {}</text>{rows}</svg>",
        explanation.score.machine, explanation.score.cycle
    )
}

/// Judges shot `n` of the plant: bursts of defects, a few in doubt, one machine without sensors.
fn judged(n: u64) -> (usize, u64, Verdict, f64) {
    let machine = (n % MACHINES.len() as u64) as usize;
    let cycle = n / MACHINES.len() as u64 + 100;
    let noise = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1_u64 << 24) as f64;
    let phase = (cycle + machine as u64 * 7) % 23;
    match (machine, phase) {
        (4, 0..=6) => (machine, cycle, Verdict::Unscorable, 0.0),
        (1 | 3 | 5, 0..=1) => (machine, cycle, Verdict::Defect, 0.86 + 0.13 * noise),
        (0 | 2, 11) | (3, 2..=4) => (machine, cycle, Verdict::Suspect, 0.25 + 0.3 * noise),
        _ => (machine, cycle, Verdict::Ok, 0.09 * noise * noise),
    }
}

async fn shot(feed: &Feed, memory: &Memory, n: u64) {
    let (machine, cycle, verdict, probability) = judged(n);
    let (name, die) = MACHINES[machine];
    let mut score = score(name, die, cycle, verdict, probability);
    score.try_shot = machine == 5 && verdict == Verdict::Defect;
    let _ = feed_one(feed, &score).await;
    if verdict != Verdict::Defect {
        return;
    }
    // Some defects have no chart: the page shows words only.
    let key = (!n.is_multiple_of(5)).then(|| format!("charts/{name}~{cycle}.svg"));
    let mut explained = explanation(score, key.clone());
    let [cause, summary, equipment, advice] = causes()[(n / 6 + machine as u64) as usize % 4].clone();
    explained.attributions[0].name = cause;
    (explained.summary, explained.equipment, explained.advice) = (summary, equipment, advice);
    if let Some(key) = key {
        Objects::put(memory, &key, "image/svg+xml", Bytes::from(chart(&explained))).await.unwrap();
    }
    Records::put(memory, &explained).await.unwrap();
    let _ = feed_one(feed, &explained).await;
    let _ = feed_one(feed, &alert(&explained)).await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into()).parse().expect("an address");
    let every: u64 = args.next().map_or(400, |text| text.parse().expect("milliseconds"));
    check_address(address, false).unwrap();
    let (feed, memory) = (Feed::default(), Memory::default());
    for n in 0..BEFORE {
        shot(&feed, &memory, n).await;
    }
    let listener = tokio::net::TcpListener::bind(address).await.expect("the address is free");
    println!("http://{}/", listener.local_addr().unwrap());
    let routes = router(feed.clone(), memory.clone(), memory.clone(), || Ok(()));
    tokio::spawn(serve(listener, routes, feed.clone(), async {
        let _ = tokio::signal::ctrl_c().await;
    }));
    for n in BEFORE.. {
        tokio::time::sleep(Duration::from_millis(every)).await;
        shot(&feed, &memory, n).await;
    }
}

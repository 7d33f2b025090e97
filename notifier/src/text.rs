//! The words of an alert: what, where, why and how sure (the explanation's summary), what to do.

use castwatch_core::payload::{Alert, Explanation, Words};

/// The alert of a defect, for `channels`. It follows from the explanation alone.
#[must_use]
pub fn alert(explanation: &Explanation, channels: &[String]) -> Alert {
    let score = &explanation.score;
    Alert {
        id: format!("alert:{}", score.shot),
        shot: score.shot.clone(),
        machine: score.machine.clone(),
        die: score.die.clone(),
        cycle: score.cycle,
        ended_at: score.ended_at,
        probability: score.probability,
        cause: explanation.cause.clone(),
        title: title(explanation),
        body: body(explanation),
        chart: explanation.chart.clone(),
        channels: channels.to_vec(),
    }
}

fn title(explanation: &Explanation) -> Words {
    let score = &explanation.score;
    let (ko, en) = if score.try_shot { (" (시사출)", " (try shot)") } else { ("", "") };
    Words {
        ko: format!("불량 · {} · 금형 {} · 샷 번호 {}{ko}", score.machine, score.die, score.cycle),
        en: format!("Defect · {} · die {} · shot {}{en}", score.machine, score.die, score.cycle),
    }
}

fn body(explanation: &Explanation) -> Words {
    let Explanation { score, summary, equipment, advice, .. } = explanation;
    let at = score.ended_at.to_string().replacen('T', " ", 1);
    Words {
        ko: format!(
            "{}\n점검할 설비: {}\n조치: {}\n시각: {at}",
            one_line(&summary.ko),
            one_line(&equipment.ko),
            one_line(&advice.ko)
        ),
        en: format!(
            "{}\nLook at: {}\nWhat to do: {}\nTime: {at}",
            one_line(&summary.en),
            one_line(&equipment.en),
            one_line(&advice.en)
        ),
    }
}

/// A text on one line of a terminal: line breaks and control characters become spaces.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_how_sure_why_and_what_to_do() {
        let explanation = crate::stage::tests::explanation("DCM-03", 258);
        let alert = alert(&explanation, &["console".into()]);
        assert_eq!(alert.id, "alert:DCM-03~8722~20260115T074506Z~258");
        assert_eq!(alert.title.ko, "불량 · DCM-03 · 금형 8722 · 샷 번호 258");
        assert_eq!(alert.title.en, "Defect · DCM-03 · die 8722 · shot 258");
        assert_eq!(
            alert.body.ko,
            "주조 압력이 251 bar로 평소(331 bar)보다 낮습니다.\n점검할 설비: 사출 유닛\n\
             조치: 증압 압력을 확인하세요.\n시각: 2026-01-15 16:45:06+09:00"
        );
        assert_eq!(
            alert.body.en,
            "Casting pressure is 251 bar, below its usual 331 bar.\nLook at: Injection unit\n\
             What to do: Check the intensification pressure.\nTime: 2026-01-15 16:45:06+09:00"
        );
    }
}

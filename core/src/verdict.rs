//! What castwatch says of a shot.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The judgement of one shot, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A good part, as far as the readings tell.
    Ok,
    /// Unlike the good shots, or close to the limit: worth a look.
    Suspect,
    /// A bad part: it is explained, recorded and alerted.
    Defect,
    /// Too few readings to say.
    Unscorable,
}

impl Verdict {
    /// The word used in events, tables and files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Suspect => "suspect",
            Self::Defect => "defect",
            Self::Unscorable => "unscorable",
        }
    }

    /// The word a supervisor reads.
    #[must_use]
    pub const fn korean(self) -> &'static str {
        match self {
            Self::Ok => "양품",
            Self::Suspect => "의심",
            Self::Defect => "불량",
            Self::Unscorable => "판정 불가",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

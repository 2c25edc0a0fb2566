//! What asking an instance how it is came to. Decisions are made of the kind; the sentence is for people.
//!
//! Four things can be out of sight, each for itself: a host, its pool, a guest's agent, and the way of a probe. The last
//! two are here: an answer that says nothing of the guest is neither a good nor a bad one.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// What asking an instance came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A connection was made, which is all that was asked.
    Connected,
    /// A status of HTTP came back.
    Status {
        /// The status.
        code: u16,
        /// The words that usually go with it; none with a 200.
        reason: Option<String>,
        /// The `ApplicationHealthState` of its body, if that has one (Azure's rich health states), fit for a terminal.
        rich: Option<String>,
    },
    /// The guest's agent answered.
    AgentAnswers,
    /// Nobody was asked: a forecast assumes that it is well.
    Assumed,
    /// There was no answer by the deadline.
    Silent {
        /// How long was waited.
        within: Duration,
    },
    /// Nobody listens there.
    ConnectionRefused,
    /// The connection ended before there was an answer.
    ConnectionClosed,
    /// Nobody on the way knows where the address is, as of a guest that is dead or without its network.
    NoRoute,
    /// It is off, or paused.
    NotRunning,
    /// Nobody knows an address of it.
    NoAddress,
    /// Every address that it claims is somebody else's, or nothing that could be asked: nobody is asked there in its name.
    AddressRefused,
    /// Something that makes no sense, in short words.
    Odd {
        /// What was met, fit for a terminal.
        said: String,
    },
    /// libvirt refuses the guest's agent at once: it has ended the channel, as after an answer that was too large.
    AgentBroken,
    /// The guest's agent is not connected, or its domain has no channel for one.
    AgentAbsent,
    /// This machine has no way to the address, or to none of any instance: its own network is down.
    NoWay,
    /// It could not be asked, for a reason on this side: its host broke off, no thread or socket was to be had, no turn
    /// came.
    NotAsked {
        /// Why.
        why: String,
    },
    /// What an earlier vmss wrote down: only its words are known.
    Noted {
        /// The words.
        said: String,
    },
}

/// What an answer says of its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is well.
    Good,
    /// It is not.
    Bad,
    /// Nothing: it could not be asked. Never by itself a reason to do anything about it.
    Unknown,
}

impl Answer {
    /// A status of HTTP. `reason` is left out for a 200.
    pub fn status(code: u16, reason: Option<&str>, rich: Option<String>) -> Self {
        Self::Status {
            code,
            reason: reason.filter(|_| code != 200).map(str::to_owned),
            rich,
        }
    }

    /// What it says of its guest. A 200 is a good answer; if the body has a health state, that decides among successes.
    pub fn judgement(&self) -> Judgement {
        match self {
            Self::Connected | Self::AgentAnswers | Self::Assumed => Judgement::Good,
            Self::Status { code, rich, .. } => {
                let good = match rich {
                    None => *code == 200,
                    Some(state) => (200..300).contains(code) && state.eq_ignore_ascii_case("Healthy"),
                };
                if good { Judgement::Good } else { Judgement::Bad }
            }
            Self::Silent { .. }
            | Self::ConnectionRefused
            | Self::ConnectionClosed
            | Self::NoRoute
            | Self::NotRunning
            | Self::NoAddress
            | Self::Odd { .. } => Judgement::Bad,
            Self::AgentBroken
            | Self::AgentAbsent
            | Self::NoWay
            | Self::AddressRefused
            | Self::NotAsked { .. }
            | Self::Noted { .. } => Judgement::Unknown,
        }
    }

    /// Whether it is a good one.
    pub fn is_good(&self) -> bool {
        self.judgement() == Judgement::Good
    }

    /// Whether its guest, or what serves in it, has said it: so that it may hear that it is to shut down. Of an answer that
    /// an earlier vmss wrote down nobody knows: being asked costs it nothing but time.
    pub const fn is_heard(&self) -> bool {
        matches!(
            self,
            Self::Status { .. } | Self::Connected | Self::AgentAnswers | Self::Noted { .. }
        )
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Status { code, reason, rich } => {
                write!(f, "{code}")?;
                if let Some(reason) = reason {
                    write!(f, " {reason}")?;
                }
                rich.iter()
                    .try_for_each(|state| write!(f, ", ApplicationHealthState {state}"))
            }
            Self::AgentAnswers => f.write_str("the agent answers"),
            Self::Assumed => f.write_str("assumed"),
            Self::Silent { within } => write!(f, "no answer within {} s", within.as_secs_f64()),
            Self::ConnectionRefused => f.write_str("connection refused"),
            Self::ConnectionClosed => f.write_str("connection closed"),
            Self::NoRoute => f.write_str("no route to host"),
            Self::NotRunning => f.write_str("the instance is not running"),
            Self::NoAddress => f.write_str("no address is known"),
            Self::AddressRefused => f.write_str("it names no address that it may have"),
            Self::Odd { said } | Self::Noted { said } => f.write_str(said),
            Self::AgentBroken => f.write_str("its guest agent is broken"),
            Self::AgentAbsent => f.write_str("its guest agent is not connected"),
            Self::NoWay => f.write_str("this machine has no way to it"),
            Self::NotAsked { why } => write!(f, "not asked: {why}"),
        }
    }
}

/// Reads what is written of a last answer: one of these, or the words alone that an earlier vmss wrote.
///
/// # Errors
/// If it is neither.
pub fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Answer>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Answer(Answer),
        Words(String),
    }
    Ok(match Option::<Written>::deserialize(from)? {
        None => None,
        Some(Written::Answer(answer)) => Some(answer),
        Some(Written::Words(said)) if said.is_empty() => None,
        Some(Written::Words(said)) => Some(Answer::Noted { said }),
    })
}

/// What answers over the network say together: where not one of several addresses could be reached at all, it is this
/// machine's own network that is down. Of a single one nobody can tell.
pub fn see_own_side<'a>(answers: impl Iterator<Item = &'a mut Answer>) {
    let answers: Vec<&mut Answer> = answers.collect();
    // Of one that has no address nothing was asked.
    let has_none = |a: &Answer| matches!(a, Answer::NoAddress | Answer::AddressRefused);
    let asked = || answers.iter().filter(|a| !has_none(a));
    let is_cut_off = asked().all(|a| matches!(**a, Answer::NoRoute | Answer::NoWay)) && asked().count() > 1;
    if is_cut_off {
        let unreached = answers.into_iter().filter(|a| **a == Answer::NoRoute);
        unreached.for_each(|answer| *answer = Answer::NoWay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Holder {
        #[serde(deserialize_with = "read")]
        last: Option<Answer>,
    }

    fn reads(text: &str) -> Option<Answer> {
        serde_json::from_str::<Holder>(&format!("{{\"last\":{text}}}"))
            .unwrap()
            .last
    }

    #[test]
    fn every_answer_is_read_as_it_was_written() {
        let within = Duration::from_millis(1500);
        let said = || "x".to_owned();
        for answer in [
            Answer::Connected,
            Answer::status(503, Some("Service Unavailable"), Some("Busy".into())),
            Answer::Silent { within },
            Answer::AgentBroken,
            Answer::Odd { said: said() },
            Answer::NotAsked { why: said() },
            Answer::Noted { said: said() },
        ] {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(reads(&text), Some(answer), "{text}");
        }
    }

    #[test]
    fn words_of_an_earlier_vmss_stay_words() {
        assert_eq!(reads("\"\""), None);
        assert_eq!(reads("null"), None);
        let said = "503 Service Unavailable".to_owned();
        let noted = Answer::Noted { said };
        assert_eq!(reads("\"503 Service Unavailable\""), Some(noted.clone()));
        assert_eq!(noted.to_string(), "503 Service Unavailable");
    }

    #[test]
    fn what_says_nothing_of_the_guest_is_no_bad_answer() {
        let why = "no thread could be started".to_owned();
        for answer in [
            Answer::AgentBroken,
            Answer::AgentAbsent,
            Answer::NoWay,
            Answer::NotAsked { why },
        ] {
            assert_eq!(answer.judgement(), Judgement::Unknown, "{answer}");
            assert!(!answer.is_heard(), "{answer}");
        }
        let within = Duration::from_secs(2);
        for answer in [Answer::Silent { within }, Answer::NoRoute, Answer::NoAddress] {
            assert_eq!(answer.judgement(), Judgement::Bad, "{answer}");
        }
    }

    #[test]
    fn several_that_nobody_finds_are_this_machines_own_matter_and_one_is_its_own() {
        let see = |mut answers: Vec<Answer>| {
            see_own_side(answers.iter_mut());
            answers
        };
        let (lost, well) = (Answer::NoRoute, Answer::status(200, None, None));
        assert_eq!(see(vec![Answer::NoRoute]), [Answer::NoRoute]);
        assert_eq!(see(vec![lost.clone(), well.clone()]), [lost.clone(), well]);
        assert_eq!(see(vec![lost.clone(); 3]), vec![Answer::NoWay; 3]);
        assert_eq!(see(vec![lost.clone(), Answer::NoWay]), vec![Answer::NoWay; 2]);
        assert_eq!(
            see(vec![lost.clone(), lost.clone(), Answer::NoAddress]),
            [Answer::NoWay, Answer::NoWay, Answer::NoAddress]
        );
        let silent = Answer::Silent {
            within: Duration::from_secs(2),
        };
        assert_eq!(see(vec![lost.clone(), silent.clone()]), [lost, silent]);
    }
}

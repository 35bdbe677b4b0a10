//! Calls that go wrong on request.

use std::collections::BTreeMap;

use crate::code::Code;

/// What a planned call does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It fails.
    Fail(Code),
    /// It does nothing and succeeds: as if the program had forgotten to make the call.
    Skip,
    /// It is done twice: as if the program had made the call once too often. The caller gets the first result.
    Repeat,
}

/// How often each driver function was called, and which of the calls to come are planned to go wrong.
#[derive(Debug, Default)]
pub struct CallLog {
    calls: BTreeMap<&'static str, u64>,
    planned: Vec<Plan>,
    /// Calls that went wrong so far because they were to.
    injected: u64,
}

#[derive(Debug)]
struct Plan {
    /// The function, "" for any.
    function: String,
    /// Calls that still go through before it begins.
    before: u64,
    /// Calls for which it then lasts.
    count: u64,
    action: Action,
}

impl CallLog {
    /// Plans what calls of `function` ("" is any function) do: the first `before` from now on go through, the next
    /// `count` do this instead.
    pub fn plan(&mut self, function: &str, before: u64, count: u64, action: Action) {
        self.planned.push(Plan {
            function: function.to_owned(),
            before,
            count,
            action,
        });
    }

    /// Forgets all plans.
    pub fn forget(&mut self) {
        self.planned.clear();
    }

    /// Counts a call and says what it is to do instead of its work.
    pub fn count(&mut self, function: &'static str) -> Option<Action> {
        *self.calls.entry(function).or_default() += 1;
        let mut action = None;
        for plan in &mut self.planned {
            if plan.function.is_empty() || plan.function == function {
                if plan.before > 0 {
                    plan.before -= 1;
                } else if plan.count > 0 {
                    plan.count -= 1;
                    action = action.or(Some(plan.action));
                }
            }
        }
        self.injected += u64::from(action.is_some());
        action
    }

    /// Calls that went wrong because they were to.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.injected
    }

    /// Every function that was called, and how often.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.calls.iter().map(|(name, count)| (*name, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, CallLog};
    use crate::code::Code;

    #[test]
    fn the_planned_calls_go_wrong_and_no_others() {
        let mut log = CallLog::default();
        let memory = Action::Fail(Code::OutOfMemory);
        log.plan("a", 1, 2, memory);
        log.plan("", 4, 1, Action::Skip);
        let actions = ["a", "b", "a", "a", "a", "a"].map(|name| log.count(name));
        assert_eq!(
            actions,
            [None, None, Some(memory), Some(memory), Some(Action::Skip), None]
        );
        assert_eq!(log.calls().collect::<Vec<_>>(), [("a", 5), ("b", 1)]);
        assert_eq!(log.injected(), 3);
        log.plan("a", 0, u64::MAX, Action::Repeat);
        log.forget();
        assert_eq!(log.count("a"), None);
    }
}

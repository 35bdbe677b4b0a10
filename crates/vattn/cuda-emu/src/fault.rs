//! Calls that fail on request.

use std::collections::BTreeMap;

use crate::code::Code;

/// How often each driver function was called, and which of the calls to come are to fail.
#[derive(Debug, Default)]
pub struct CallLog {
    calls: BTreeMap<&'static str, u64>,
    /// Function ("" is any), calls left until the one that fails, how many fail, and how.
    planned: Vec<Plan>,
    /// Calls that failed so far because they were to.
    injected: u64,
}

#[derive(Debug)]
struct Plan {
    function: String,
    skip: u64,
    fail: u64,
    code: Code,
}

impl CallLog {
    /// Lets calls of `function` ("" is any function) fail with `code`: the first `skip` from now on go through, the next
    /// `fail` do not.
    pub fn plan(&mut self, function: &str, skip: u64, fail: u64, code: Code) {
        self.planned.push(Plan {
            function: function.to_owned(),
            skip,
            fail,
            code,
        });
    }

    /// Forgets all plans.
    pub fn forget(&mut self) {
        self.planned.clear();
    }

    /// Counts a call and says whether it is to fail.
    pub fn count(&mut self, function: &'static str) -> Option<Code> {
        *self.calls.entry(function).or_default() += 1;
        let mut code = None;
        for plan in &mut self.planned {
            if plan.function.is_empty() || plan.function == function {
                if plan.skip > 0 {
                    plan.skip -= 1;
                } else if plan.fail > 0 {
                    plan.fail -= 1;
                    code = code.or(Some(plan.code));
                }
            }
        }
        self.injected += u64::from(code.is_some());
        code
    }

    /// Calls that failed because they were to.
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
    use super::CallLog;
    use crate::code::Code;

    #[test]
    fn the_planned_calls_fail_and_no_others() {
        let mut log = CallLog::default();
        log.plan("a", 1, 2, Code::OutOfMemory);
        log.plan("", 4, 1, Code::Unknown);
        let outcomes = ["a", "b", "a", "a", "a", "a"].map(|name| log.count(name));
        let memory = Some(Code::OutOfMemory);
        assert_eq!(outcomes, [None, None, memory, memory, Some(Code::Unknown), None]);
        assert_eq!(log.calls().collect::<Vec<_>>(), [("a", 5), ("b", 1)]);
        assert_eq!(log.injected(), 3);
        log.plan("a", 0, u64::MAX, Code::Unknown);
        log.forget();
        assert_eq!(log.count("a"), None);
    }
}

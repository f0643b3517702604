//! A Python function by its name, as the command line gives it.

/// A Python function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonFunction {
    /// The end of its file's path; none: whatever file.
    pub file: Option<String>,
    /// Its name, perhaps with its class before it.
    pub function: String,
}

impl PythonFunction {
    /// Whether a function with this name (qualified from 3.11 on) in this file is meant.
    pub fn is(&self, function: &str, file: &str) -> bool {
        let ends_with = |whole: &str, end: &str, border: char| {
            whole.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with(border))
        };
        let last = self.function.rsplit('.').next().unwrap_or(&self.function);
        // Before 3.11 the class is not told.
        let is_named = ends_with(function, &self.function, '.') || !function.contains('.') && function == last;
        is_named && self.file.as_ref().is_none_or(|wanted| ends_with(file, wanted.trim_start_matches("./"), '/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_function_is_meant_by_its_whole_name_or_the_end_of_it() {
        let wanted = |file: Option<&str>, function: &str| PythonFunction {
            file: file.map(str::to_owned),
            function: function.to_owned(),
        };
        assert!(wanted(None, "step").is("step", "/a/b.py"));
        assert!(wanted(None, "step").is("Trainer.step", "/a/b.py"));
        assert!(wanted(None, "Trainer.step").is("Trainer.step", "/a/b.py"));
        assert!(wanted(None, "Trainer.step").is("step", "/a/b.py"), "3.10 has no qualified names");
        assert!(!wanted(None, "Trainer.step").is("Other.step", "/a/b.py"));
        assert!(!wanted(None, "step").is("train_step", "/a/b.py"));
        assert!(wanted(Some("b.py"), "step").is("step", "/a/b.py"));
        assert!(wanted(Some("./a/b.py"), "step").is("step", "/x/a/b.py"));
        assert!(!wanted(Some("b.py"), "step").is("step", "/a/ab.py"));
    }
}

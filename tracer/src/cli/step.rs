//! What `--step` names: a function whose entries begin steps. Pure: whether it exists is found out elsewhere.

use std::str::FromStr;

use crate::python::PythonFunction;

/// What was written, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedStep {
    /// As on the command line.
    pub text: String,
    /// See there.
    pub what: StepSpec,
}

impl FromStr for AskedStep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(AskedStep { text: text.to_owned(), what: text.parse()? })
    }
}

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepSpec {
    /// `FILE:SYMBOL`: a native function.
    Symbol {
        /// The program or library.
        file: String,
        /// Its symbol, or what that is in the source.
        symbol: String,
    },
    /// `usdt:FILE:PROVIDER:NAME`: a probe that the program's author put there.
    Probe {
        /// The program or library.
        file: String,
        /// See there.
        provider: String,
        /// See there.
        name: String,
    },
    /// `py:FUNCTION` or `py:FILE.py:FUNCTION`.
    Python(PythonFunction),
}

const FORMS: &str =
    "FILE:SYMBOL (a function of a program or library), usdt:FILE:PROVIDER:NAME, py:FUNCTION or py:FILE.py:FUNCTION";

impl FromStr for StepSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` names no function: write {FORMS}");
        let parts = |text: &str| -> Result<Vec<String>, String> {
            let parts: Vec<String> = text.split(':').map(str::to_owned).collect();
            if parts.iter().any(String::is_empty) { Err(wrong()) } else { Ok(parts) }
        };
        if let Some(rest) = text.strip_prefix("py:") {
            return match &parts(rest)?[..] {
                [function] => Ok(StepSpec::Python(PythonFunction { file: None, function: function.clone() })),
                [file, function] => {
                    Ok(StepSpec::Python(PythonFunction { file: Some(file.clone()), function: function.clone() }))
                }
                _ => Err(wrong()),
            };
        }
        if let Some(rest) = text.strip_prefix("usdt:") {
            return match &parts(rest)?[..] {
                [file, provider, name] => {
                    Ok(StepSpec::Probe { file: file.clone(), provider: provider.clone(), name: name.clone() })
                }
                _ => Err(wrong()),
            };
        }
        // Names of C++ and Rust have colons themselves.
        match text.split_once(':') {
            Some((file, symbol)) if !file.is_empty() && !symbol.is_empty() => {
                Ok(StepSpec::Symbol { file: file.to_owned(), symbol: symbol.to_owned() })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_told_from_the_others() {
        let parse = |text: &str| text.parse::<StepSpec>();
        let symbol =
            |file: &str, symbol: &str| Ok(StepSpec::Symbol { file: file.to_owned(), symbol: symbol.to_owned() });
        assert_eq!(parse("./server:handle_request"), symbol("./server", "handle_request"));
        assert_eq!(parse("libfoo.so:ns::Loop::step"), symbol("libfoo.so", "ns::Loop::step"));
        let probe = StepSpec::Probe { file: "a".to_owned(), provider: "b".to_owned(), name: "c".to_owned() };
        assert_eq!(parse("usdt:a:b:c"), Ok(probe));
        let python = |file: Option<&str>, function: &str| {
            Ok(StepSpec::Python(PythonFunction { file: file.map(str::to_owned), function: function.to_owned() }))
        };
        assert_eq!(parse("py:train_step"), python(None, "train_step"));
        assert_eq!(parse("py:train.py:Trainer.step"), python(Some("train.py"), "Trainer.step"));
        for wrong in ["", "train_step", ":a", "a:", "py:", "py:a:b:c", "py::a", "usdt:a:b", "usdt:a:b:c:d", "usdt:a::c"]
        {
            let said = parse(wrong).expect_err(wrong);
            assert!(said.contains("names no function: write FILE:SYMBOL"), "{said}");
        }
    }
}

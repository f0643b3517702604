//! A statement's text without its values: what is left is what statements have in common that differ in values only. Values are never
//! kept, so whatever might be one is taken out. Not here: what a statement means.

use sqlparser::dialect::{Dialect, GenericDialect, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::symbol::clients::Client;

/// Longer texts are cut.
pub const MOST_CHARACTERS: usize = 400;
/// In the place of a value.
const VALUE: &str = "?";
/// In the place of what is cut off.
const CUT: char = '…';

/// The statement with `?` for each value, in one line, lists of values as one value. `is_cut`: the text goes on.
pub fn normalised(text: &str, client: Client, is_cut: bool) -> String {
    let dialect: &dyn Dialect = match client {
        Client::Sqlite => &SQLiteDialect {},
        Client::Postgres => &PostgreSqlDialect {},
        Client::Mysql => &MySqlDialect {},
    };
    let (tokens, whole) = tokens(text, dialect);
    let mut pieces = Pieces { client, is_cut: is_cut || !whole, list: Vec::new(), gap: false };
    for (index, token) in tokens.iter().enumerate() {
        let next = tokens[index + 1..].iter().find(|token| !matches!(token, Token::Whitespace(_)));
        pieces.take(token, next);
    }
    pieces.trim();
    pieces.joined()
}

/// The tokens up to what is none, and whether that is all. An open quotation ends the text before it.
fn tokens(text: &str, dialect: &dyn Dialect) -> (Vec<Token>, bool) {
    let read = |dialect: &dyn Dialect| {
        let mut tokens: Vec<TokenWithSpan> = Vec::new();
        let outcome = Tokenizer::new(dialect, text).tokenize_with_location_into_buf(&mut tokens);
        (tokens.into_iter().map(|token| token.token).collect::<Vec<_>>(), outcome.is_ok())
    };
    let (tokens, whole) = read(dialect);
    if whole {
        return (tokens, true);
    }
    // What one dialect does not know another may.
    match read(&GenericDialect {}) {
        (tokens, true) => (tokens, true),
        _ => (tokens, false),
    }
}

/// What of a statement is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Value,
    Comma,
    Open,
    Close,
    Other(String),
}

struct Pieces {
    client: Client,
    /// The text goes on.
    is_cut: bool,
    /// With whether there was room before it.
    list: Vec<(Piece, bool)>,
    gap: bool,
}

impl Pieces {
    fn take(&mut self, token: &Token, next: Option<&Token>) {
        let piece = match token {
            Token::EOF => return,
            // Comments as well: they may say anything.
            Token::Whitespace(_) => {
                self.gap = true;
                return;
            }
            Token::SemiColon if next.is_none_or(|next| matches!(next, Token::EOF)) => return,
            Token::Comma => Piece::Comma,
            Token::LParen => Piece::Open,
            Token::RParen => Piece::Close,
            Token::Placeholder(_) => Piece::Value,
            // A parameter by its name.
            Token::Word(_) if !self.gap && self.ends_with_mark() => {
                let gap = self.list.pop().is_some_and(|(_, gap)| gap);
                self.gap = gap;
                Piece::Value
            }
            Token::Word(word) if word.quote_style != Some('"') || self.is_name(next) => Piece::Other(token.to_string()),
            Token::Period
            | Token::SemiColon
            | Token::Eq
            | Token::DoubleEq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq
            | Token::Spaceship
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Mod
            | Token::Colon
            | Token::AtSign
            | Token::DoubleColon
            | Token::StringConcat
            | Token::LBracket
            | Token::RBracket
            | Token::Ampersand
            | Token::Pipe
            | Token::Caret
            | Token::Tilde
            | Token::Arrow
            | Token::LongArrow
            | Token::HashArrow
            | Token::HashLongArrow
            | Token::AtArrow
            | Token::ArrowAt
            | Token::Question
            | Token::QuestionAnd
            | Token::QuestionPipe => Piece::Other(token.to_string()),
            // Numbers, texts in every kind of quotes, and whatever else there may be.
            _ => Piece::Value,
        };
        let mut gap = std::mem::replace(&mut self.gap, false);
        // A sign belongs to its number.
        if piece == Piece::Value && matches!(token, Token::Number(..)) && self.ends_with_sign() {
            gap = self.list.pop().is_some_and(|(_, gap)| gap);
        }
        let ends = |kinds: &[Piece]| {
            let from = self.list.len().checked_sub(kinds.len());
            from.is_some_and(|from| self.list[from..].iter().map(|(piece, _)| piece).eq(kinds))
        };
        let is_last = self.is_cut && matches!(next, None | Some(Token::EOF));
        let is_item = is_last || matches!(next, Some(Token::Comma | Token::RParen));
        match piece {
            // `(?, ?` is `(?`.
            Piece::Value if is_item && ends(&[Piece::Open, Piece::Value, Piece::Comma]) => {
                self.list.pop();
            }
            // `(?), (?)` is `(?)`.
            Piece::Close
                if ends(&[Piece::Open, Piece::Value, Piece::Close, Piece::Comma, Piece::Open, Piece::Value]) =>
            {
                self.list.truncate(self.list.len() - 3);
            }
            piece => self.list.push((piece, gap)),
        }
    }

    /// Whether what came last is what parameters' names begin with.
    fn ends_with_mark(&self) -> bool {
        matches!(self.list.last(), Some((Piece::Other(mark), _)) if mark == ":" || mark == "@")
    }

    /// Whether what came last is a sign, and no subtraction.
    fn ends_with_sign(&self) -> bool {
        let is_operator = |text: &str| !text.ends_with(|last: char| last.is_alphanumeric() || "_\"`])".contains(last));
        match &self.list[..] {
            [.., (before, _), (Piece::Other(sign), _)] if sign == "-" || sign == "+" => match before {
                Piece::Open | Piece::Comma => true,
                Piece::Other(text) => is_operator(text),
                Piece::Value | Piece::Close => false,
            },
            _ => false,
        }
    }

    /// Whether a text in double quotes names something. SQLite and MySQL take it for a value where nothing is called so.
    fn is_name(&self, next: Option<&Token>) -> bool {
        if self.client == Client::Postgres || next.is_some_and(|next| matches!(next, Token::Period)) {
            return true;
        }
        const BEFORE_VALUES: [&str; 18] = [
            "=", "==", "<>", "!=", "<", ">", "<=", ">=", "LIKE", "GLOB", "MATCH", "REGEXP", "BETWEEN", "AND", "OR",
            "IS", "NOT", "||",
        ];
        let is = |piece: Option<&(Piece, bool)>, words: &[&str]| matches!(piece, Some((Piece::Other(text), _)) if words.contains(&text.to_ascii_uppercase().as_str()));
        let mut before = self.list.iter().rev();
        match before.next() {
            Some((Piece::Comma, _)) => !matches!(before.next(), Some((Piece::Value, _))),
            Some((Piece::Open, _)) => {
                !is(before.next(), &["VALUES", "IN"]) && !matches!(before.next(), Some((Piece::Value, _)))
            }
            last => !is(last, &BEFORE_VALUES),
        }
    }

    /// Of a text that is cut in a list, as inserts of many rows are, what is left of the list depends on its values: it ends with what was whole.
    fn trim(&mut self) {
        let is = |list: &[(Piece, bool)], kinds: &[Piece]| list.iter().map(|(piece, _)| piece).eq(kinds);
        if !self.is_cut {
            return;
        }
        if self.ends_with_sign() {
            self.list.pop();
        }
        let tails: [&[Piece]; 4] = [
            &[Piece::Comma, Piece::Open, Piece::Value, Piece::Comma],
            &[Piece::Comma, Piece::Open, Piece::Value],
            &[Piece::Comma, Piece::Open],
            &[Piece::Comma],
        ];
        let length = self.list.len();
        let tail = tails.into_iter().find(|tail| length >= tail.len() && is(&self.list[length - tail.len()..], tail));
        self.list.truncate(length - tail.map_or(0, <[Piece]>::len));
    }

    /// In one line.
    fn joined(&self) -> String {
        let mut text = String::new();
        let mut after: Option<&Piece> = None;
        for (piece, gap) in &self.list {
            let tight = matches!(after, None | Some(Piece::Open)) || matches!(piece, Piece::Comma | Piece::Close);
            if (*gap || after == Some(&Piece::Comma)) && !tight {
                text.push(' ');
            }
            text.push_str(match piece {
                Piece::Value => VALUE,
                Piece::Comma => ",",
                Piece::Open => "(",
                Piece::Close => ")",
                Piece::Other(text) => text,
            });
            after = Some(piece);
        }
        let end = text.char_indices().nth(MOST_CHARACTERS).map(|(end, _)| end);
        text.truncate(end.unwrap_or(text.len()));
        if end.is_some() || self.is_cut {
            text.push(CUT);
        }
        crate::model::text::printable(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sqlite(text: &str) -> String {
        normalised(text, Client::Sqlite, false)
    }

    #[test]
    fn values_are_taken_out_and_names_stay() {
        let select = "SELECT a.\"id\", name FROM  items AS a\n WHERE price > 12.5 AND name = 'it''s' LIMIT 10;";
        assert_eq!(sqlite(select), "SELECT a.\"id\", name FROM items AS a WHERE price > ? AND name = ? LIMIT ?");
        assert_eq!(
            sqlite("select count(*) from t where k=0x1f or k = x'53'"),
            "select count(*) from t where k=? or k = ?"
        );
        assert_eq!(sqlite("PRAGMA journal_mode=WAL"), "PRAGMA journal_mode=WAL");
    }

    #[test]
    fn lists_of_values_are_one() {
        assert_eq!(sqlite("SELECT 1 FROM t WHERE id IN (1, 2,3 , 4)"), "SELECT ? FROM t WHERE id IN (?)");
        let insert = "INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y'), (?, :z)";
        assert_eq!(sqlite(insert), "INSERT INTO t (a, b) VALUES (?)");
        assert_eq!(sqlite("SELECT n % 3, 'x' || n, f(1, -2, +3)"), "SELECT n % ?, ? || n, f(?)");
        assert_eq!(
            sqlite("SELECT a-1, a - 2, (a)-3 FROM t WHERE b = -4"),
            "SELECT a-?, a - ?, (a)-? FROM t WHERE b = ?"
        );
    }

    #[test]
    fn comments_are_left_out_and_whatever_is_quoted_where_a_value_stands() {
        assert_eq!(sqlite("SELECT a -- for bob\nFROM t /* secret */"), "SELECT a FROM t");
        assert_eq!(
            sqlite("SELECT \"name\" FROM \"users\" WHERE \"name\" = \"bob\""),
            "SELECT \"name\" FROM \"users\" WHERE \"name\" = ?"
        );
        assert_eq!(sqlite("INSERT INTO t VALUES (\"bob\", \"eve\")"), "INSERT INTO t VALUES (?)");
        let own = "SELECT u.\"id\" FROM \"u\" WHERE \"u\".\"id\" = \"t\".\"u_id\"";
        assert_eq!(sqlite(own), own);
    }

    #[test]
    fn other_dialects_have_other_quotes() {
        let postgres = |text: &str| normalised(text, Client::Postgres, false);
        assert_eq!(
            postgres("SELECT $1::text, $tag$it's$tag$, E'a\\'b' FROM \"T\" WHERE x = $2"),
            "SELECT ?::text, ?, ? FROM \"T\" WHERE x = ?"
        );
        let mysql = |text: &str| normalised(text, Client::Mysql, false);
        assert_eq!(
            mysql("SELECT `a` FROM t WHERE b = \"bob\" AND c = 'eve'"),
            "SELECT `a` FROM t WHERE b = ? AND c = ?"
        );
    }

    #[test]
    fn inserts_of_many_rows_are_one_wherever_they_are_cut() {
        let whole = "INSERT INTO t VALUES (1, 'a', 12), (2, 'bcd', 3), (345, 'e', -6)";
        let first = whole.find("), ").expect("the end of a row") + 1;
        for end in first..whole.len() {
            let text = normalised(&whole[..end], Client::Mysql, true);
            assert_eq!(text, "INSERT INTO t VALUES (?)…", "cut after {}", &whole[..end]);
        }
        let select = "SELECT a FROM t WHERE id IN (12, 34, 56)";
        for end in select.find("2,").expect("a number")..select.len() - 1 {
            let text = normalised(&select[..end], Client::Postgres, true);
            assert_eq!(text, "SELECT a FROM t WHERE id IN (?…", "cut after {}", &select[..end]);
        }
    }

    #[test]
    fn a_text_that_is_cut_in_a_value_ends_before_it() {
        assert_eq!(
            normalised("SELECT a FROM t WHERE name = 'secr", Client::Sqlite, true),
            "SELECT a FROM t WHERE name =…"
        );
        let long = format!("SELECT {} FROM t", "column, ".repeat(200));
        let text = sqlite(&long);
        assert!(text.ends_with('…') && text.chars().count() == MOST_CHARACTERS + 1, "{text}");
    }

    proptest! {
        #[test]
        fn no_value_gets_through(number in 1_000_000_000u64.., text in "[a-z' ]{8,20}", cut in any::<bool>()) {
            let quoted = text.replace('\'', "''");
            let statement = format!("UPDATE t SET a = {number}, b = '{quoted}' WHERE c IN ('{quoted}', {number})");
            for client in [Client::Sqlite, Client::Postgres, Client::Mysql] {
                prop_assert_eq!(normalised(&statement, client, cut).replace('…', ""), "UPDATE t SET a = ?, b = ? WHERE c IN (?)");
            }
        }

        #[test]
        fn any_text_gives_one_printable_line(text in any::<String>()) {
            let normal = normalised(&text, Client::Mysql, false);
            prop_assert!(normal.chars().all(|character| !character.is_control()));
        }
    }
}

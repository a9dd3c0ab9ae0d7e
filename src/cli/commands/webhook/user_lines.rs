//! Reads user IDs, one a line, in a thread of its own.

use std::io::{self, BufRead};
use std::thread;

use tokio::sync::mpsc;

use crate::cli::commands::lines::{InputSource, Lines};
use crate::domain::UserId;

/// Users of a piece: what one command changes.
pub(super) const USERS_PER_PIECE: usize = 1000;

/// Pieces that wait to be sent.
const PIECES_WAITING: usize = 4;

/// A piece, or why the rest is not used.
pub(super) type Pieces = mpsc::Receiver<Result<Vec<UserId>, String>>;

/// Opens the source.
pub(super) fn read(source: &InputSource) -> Result<Pieces, String> {
    let cannot_read = |error| format!("--users-file {source} cannot be read: {error}");
    let (input, _) = source.open().map_err(cannot_read)?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let name = source.to_string();
    thread::spawn(move || send_all(&name, input.buffered(), &sender));
    Ok(receiver)
}

/// Ends when everything is read, a line is invalid, or nobody takes it. The users before an invalid line are
/// sent.
fn send_all(name: &str, input: impl BufRead, sender: &mpsc::Sender<Result<Vec<UserId>, String>>) {
    let mut lines = Lines::new(input);
    loop {
        let mut users = Vec::with_capacity(USERS_PER_PIECE);
        let filled = fill(&mut users, &mut lines);
        if !users.is_empty() && sender.blocking_send(Ok(users)).is_err() {
            return;
        }
        let problem = match filled {
            Ok(Filled::More) => continue,
            Ok(Filled::End) => return,
            Ok(Filled::Invalid(problem)) => {
                format!("--users-file {name}, line {}: the ID {problem}", lines.number)
            }
            Err(error) => format!("--users-file {name} cannot be read: {error}"),
        };
        // Where nobody takes it, the command has ended.
        let _ = sender.blocking_send(Err(problem));
        return;
    }
}

/// What comes after a piece.
enum Filled {
    More,
    End,
    Invalid(String),
}

fn fill(users: &mut Vec<UserId>, lines: &mut Lines<impl BufRead>) -> io::Result<Filled> {
    while users.len() < USERS_PER_PIECE {
        if !lines.next()? {
            return Ok(Filled::End);
        }
        let line = lines.line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        // What is not UTF-8 is not a number either.
        match String::from_utf8_lossy(line).parse() {
            Ok(user) => users.push(user),
            Err(problem) => return Ok(Filled::Invalid(format!("{problem}"))),
        }
    }
    Ok(Filled::More)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &[u8]) -> Vec<Result<Vec<u64>, String>> {
        let (sender, mut receiver) = mpsc::channel(1000);
        send_all("users", text, &sender);
        drop(sender);
        let pieces = std::iter::from_fn(|| receiver.blocking_recv());
        let numbers = |users: Vec<UserId>| users.into_iter().map(UserId::get).collect();
        pieces.map(|piece| piece.map(numbers)).collect()
    }

    #[test]
    fn blank_lines_are_skipped() {
        assert_eq!(pieces(b"1\n\n  \n 2 \r\n3"), [Ok(vec![1, 2, 3])]);
        assert_eq!(pieces(b""), []);
        assert_eq!(pieces(b"\n \n"), []);
    }

    #[test]
    fn an_invalid_line_is_named_and_ends_it() {
        for (line, problem) in [
            ("x", "is not a number"),
            ("0", "is zero"),
            ("01", "is not a number"),
            ("9223372036854775808", "is too large"),
            ("1 2", "is not a number"),
            (&"9".repeat(1_000_000), "is too large"),
        ] {
            let found = pieces(format!("1\n\n2\n{line}\n3\n").as_bytes());
            let [Ok(users), Err(named)] = &found[..] else { panic!("{found:?}") };
            assert_eq!(users[..], [1, 2]);
            assert!(named.starts_with(&format!("--users-file users, line 4: the ID {problem}")));
            assert!(!named.contains("99999"), "{named}");
        }
        let [Err(named)] = &pieces(b"\xff\n")[..] else { panic!("one error") };
        assert!(named.contains("line 1: the ID is not a number"), "{named}");
    }

    #[test]
    fn a_piece_has_a_bounded_number_of_users() {
        let numbers: Vec<_> = (1..=2500).map(|n| n.to_string()).collect();
        let text = numbers.join("\n");
        let lengths: Vec<_> =
            pieces(text.as_bytes()).into_iter().map(|piece| piece.unwrap().len()).collect();
        assert_eq!(lengths, [1000, 1000, 500]);
    }
}

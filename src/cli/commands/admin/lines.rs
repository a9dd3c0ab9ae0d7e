//! Reads lines of JSON in a thread of its own, which parses while Redis works.

use std::io::{self, BufRead};
use std::thread;

use tokio::sync::mpsc;

use crate::cli::commands::lines::{InputSource, LINE_MAX_BYTES, Lines};
use crate::domain::CursorRecord;

/// Lines of a piece: what one script call puts, in 1.5 ms (`docs/production.md`, "Move cursors").
const LINES_PER_PIECE: u64 = 128;

/// Pieces that wait to be put.
const PIECES_WAITING: usize = 8;

/// Consecutive lines.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The cursors, and the numbers of their lines.
    pub(super) records: Vec<CursorRecord>,
    /// Those numbers, from 1.
    pub(super) numbers: Vec<u64>,
    /// The invalid lines: their numbers, and what is wrong with them.
    pub(super) invalid: Vec<(u64, String)>,
    /// The number of the last line, empty ones included.
    pub(super) last_line: u64,
    /// The position behind it, in bytes.
    pub(super) position: u64,
}

/// The pieces of a file, or why it cannot be read on.
pub(super) type Pieces = mpsc::Receiver<io::Result<Piece>>;

/// Opens the source. Returns its length too, if it is known.
pub(super) fn read(source: &InputSource, skip_lines: u64) -> io::Result<(Pieces, Option<u64>)> {
    let (input, length) = source.open()?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    thread::spawn(move || send_all(input.buffered(), skip_lines, &sender));
    Ok((receiver, length))
}

/// Ends when everything is read, or nobody takes it. The first piece has the lines that were skipped, if
/// any were to be.
fn send_all(input: impl BufRead, skip_lines: u64, sender: &mpsc::Sender<io::Result<Piece>>) {
    let mut lines = Lines::new(input);
    let mut skipped = Ok(true);
    while lines.number < skip_lines && matches!(skipped, Ok(true)) {
        skipped = lines.next();
    }
    if skip_lines > 0 && skipped.is_ok() {
        let done = Piece { last_line: lines.number, position: lines.position, ..Piece::default() };
        if sender.blocking_send(Ok(done)).is_err() {
            return;
        }
    }
    let mut result = skipped.map(|_| ());
    while result.is_ok() {
        let mut piece = Piece::default();
        result = fill(&mut piece, &mut lines);
        let is_end = piece.last_line == 0;
        if result.is_ok() && (is_end || sender.blocking_send(Ok(piece)).is_err()) {
            return;
        }
    }
    if let Err(error) = result {
        let _ = sender.blocking_send(Err(error));
    }
}

/// Reads the lines of a piece, fewer at the end.
fn fill(piece: &mut Piece, lines: &mut Lines<impl BufRead>) -> io::Result<()> {
    for _ in 0..LINES_PER_PIECE {
        if !lines.next()? {
            break;
        }
        if lines.is_too_long() {
            let problem = format!("longer than {LINE_MAX_BYTES} bytes");
            piece.invalid.push((lines.number, problem));
        } else if !lines.line.trim_ascii().is_empty() {
            match CursorRecord::parse(&lines.line) {
                Ok(record) => {
                    piece.records.push(record);
                    piece.numbers.push(lines.number);
                }
                Err(problem) => piece.invalid.push((lines.number, problem)),
            }
        }
        (piece.last_line, piece.position) = (lines.number, lines.position);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn pieces(text: &[u8], skip_lines: u64) -> Vec<Piece> {
        let (sender, mut receiver) = mpsc::channel(1000);
        // A buffer shorter than a line.
        send_all(BufReader::with_capacity(7, text), skip_lines, &sender);
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).map(Result::unwrap).collect()
    }

    fn line(message: u64) -> String {
        format!(r#"{{"reader_id":"1","recipient_id":"2","last_read_event_id":"{message}"}}"#)
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = format!("{}\n\n \r\n{}\r\nx\n{}", line(1), line(2), line(3));
        let [piece] = &pieces(text.as_bytes(), 0)[..] else { panic!("one piece") };
        assert_eq!(piece.numbers, [1, 4, 6]);
        assert_eq!(piece.invalid.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [5]);
        assert_eq!((piece.last_line, piece.position), (6, text.len().try_into().unwrap()));
        let [skipped, piece] = &pieces(text.as_bytes(), 4)[..] else { panic!("two pieces") };
        assert_eq!((skipped.last_line, skipped.records.len(), skipped.invalid.len()), (4, 0, 0));
        assert_eq!((&piece.numbers[..], piece.invalid.len()), (&[6][..], 1));
        for skip_lines in [6, 7] {
            let [skipped] = &pieces(text.as_bytes(), skip_lines)[..] else { panic!("one piece") };
            assert_eq!((skipped.last_line, skipped.records.len()), (6, 0));
        }
        assert!(pieces(b"", 0).is_empty());
    }

    #[test]
    fn a_line_of_any_length_takes_bounded_memory() {
        let fits = format!("{}{}", line(1), " ".repeat(LINE_MAX_BYTES - line(1).len()));
        let text = format!("{fits}\n{fits} \n{}\n{}\n", "x".repeat(1_000_000), line(2));
        let [piece] = &pieces(text.as_bytes(), 0)[..] else { panic!("one piece") };
        assert_eq!(piece.numbers, [1, 4]);
        let problem = "longer than 4096 bytes".to_owned();
        assert_eq!(piece.invalid, [(2, problem.clone()), (3, problem)]);
    }

    #[test]
    fn a_piece_has_a_bounded_number_of_lines() {
        let text = (1..=300).map(|n| line(n) + "\n").collect::<String>();
        let pieces = pieces(text.as_bytes(), 0);
        assert_eq!(
            pieces.iter().map(|piece| piece.numbers.len()).collect::<Vec<_>>(),
            [128, 128, 44]
        );
        assert_eq!(pieces[1].numbers[0], 129);
    }
}

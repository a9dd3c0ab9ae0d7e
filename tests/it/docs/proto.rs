//! The methods and messages of `docs/contract.md` against the descriptors that reflection serves.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::{Table, code, contract, plain};

/// The fields in a cell, as in "`name` (1)".
fn fields(cell: &str) -> BTreeSet<(String, i32)> {
    let parts: Vec<_> = cell.split('`').collect();
    let field = |pair: &[&str]| {
        let number = pair[1].strip_prefix(" (")?.split(')').next()?.parse().ok()?;
        Some((pair[0].to_owned(), number))
    };
    parts[1..].chunks(2).filter(|pair| pair.len() == 2).filter_map(field).collect()
}

/// The fields of the message with this name, of whatever package.
fn fields_of(file: &FileDescriptorProto, name: &str) -> BTreeSet<(String, i32)> {
    let message = file.message_type.iter().find(|message| message.name() == name);
    let message = message.unwrap_or_else(|| panic!("there is a {name}"));
    message.field.iter().map(|field| (field.name().to_owned(), field.number())).collect()
}

#[test]
fn the_contracts_methods_and_fields_are_the_protos() {
    let set = FileDescriptorSet::decode(markread::proto::FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.iter().find(|file| file.package() == "markread.v1").unwrap();
    let tables = Table::all(contract());
    let rows = |column: &'static str| {
        let in_section = move |table: &&Table<'_>| table.section == "4 gRPC" && table.has(column);
        tables.iter().filter(in_section).flat_map(|table| &table.rows)
    };
    let mut documented: BTreeSet<String> = BTreeSet::new();

    let (request, response) = ("request: field (number) type", "response: field (number) type");
    let mut methods = BTreeSet::new();
    for row in rows("method") {
        let name = plain(row["method"]);
        let input = format!("{name}Request");
        assert_eq!(fields(row[request]), fields_of(file, &input), "{input}");
        let output = format!("{name}Response");
        // What a stream carries has a row of its own.
        if !row[response].starts_with("stream of") {
            assert_eq!(fields(row[response]), fields_of(file, &output), "{output}");
            documented.insert(output);
        }
        documented.insert(input);
        methods.insert(name);
    }
    for row in rows("message") {
        let name = code(row["message"]).next().unwrap();
        assert_eq!(fields(row["fields (number)"]), fields_of(file, name), "{name}");
        documented.insert(name.to_owned());
    }

    let declared = file.service[0].method.iter().map(|method| method.name().to_owned());
    assert_eq!(methods, declared.collect());
    let declared = file.message_type.iter().map(|message| message.name().to_owned());
    assert_eq!(documented, declared.collect());
}

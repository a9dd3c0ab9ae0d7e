//! Marks on their way to the script, and what is remembered of readers and users.

pub(crate) mod denials;
pub(crate) mod group_commit;
pub(crate) mod script_call;
pub(crate) mod users;

//! The names of the RPCs.

/// The methods of `markread.v1.MarkReadService`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// `MarkRead`.
    MarkRead,
    /// `BatchMarkRead`.
    BatchMarkRead,
    /// `GetReadState`.
    GetReadState,
    /// `BatchGetReadStates`.
    BatchGetReadStates,
    /// `ListReadCursors`.
    ListReadCursors,
    /// `WatchMarkReadEvents`, whose answer is a stream.
    WatchMarkReadEvents,
}

impl Rpc {
    /// All RPCs.
    pub const ALL: [Self; 6] = [
        Self::MarkRead,
        Self::BatchMarkRead,
        Self::GetReadState,
        Self::BatchGetReadStates,
        Self::ListReadCursors,
        Self::WatchMarkReadEvents,
    ];

    /// Returns service and method, as in the path.
    pub fn full_name(self) -> &'static str {
        match self {
            Self::MarkRead => "markread.v1.MarkReadService/MarkRead",
            Self::BatchMarkRead => "markread.v1.MarkReadService/BatchMarkRead",
            Self::GetReadState => "markread.v1.MarkReadService/GetReadState",
            Self::BatchGetReadStates => "markread.v1.MarkReadService/BatchGetReadStates",
            Self::ListReadCursors => "markread.v1.MarkReadService/ListReadCursors",
            Self::WatchMarkReadEvents => "markread.v1.MarkReadService/WatchMarkReadEvents",
        }
    }
}

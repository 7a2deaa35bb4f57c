//! gRPC over HTTP/2: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

/// Name of a status, in parentheses; empty for 0 and what is not known: <https://grpc.io/docs/guides/status-codes/>
pub(crate) fn status_name(status: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "",
        " (CANCELLED)",
        " (UNKNOWN)",
        " (INVALID_ARGUMENT)",
        " (DEADLINE_EXCEEDED)",
        " (NOT_FOUND)",
        " (ALREADY_EXISTS)",
        " (PERMISSION_DENIED)",
        " (RESOURCE_EXHAUSTED)",
        " (FAILED_PRECONDITION)",
        " (ABORTED)",
        " (OUT_OF_RANGE)",
        " (UNIMPLEMENTED)",
        " (INTERNAL)",
        " (UNAVAILABLE)",
        " (DATA_LOSS)",
        " (UNAUTHENTICATED)",
    ];
    NAMES.get(status as usize).copied().unwrap_or_default()
}

//! What can be wrong with a message: one table for all of `http`.

/// Makes the enum of the rows, and what is told of each.
macro_rules! errors {
    ($($name:ident $rule:literal $status:literal $expected:literal)*) => {
        /// The rule that a message breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum HttpError {
            $(#[doc = concat!("Expected ", $expected, ".")] $name,)*
        }

        impl HttpError {
            /// All of them.
            pub const ALL: &'static [HttpError] = &[$(HttpError::$name),*];

            const fn row(self) -> (&'static str, u16, &'static str) {
                match self {
                    $(HttpError::$name => ($rule, $status, concat!("expected ", $expected)),)*
                }
            }
        }
    };
}

errors! {
    // Heads.
    BareLf              "S8"  400 "CRLF at the end of each line, found LF alone"
    BareCr              "S8"  400 "LF after CR"
    Control             "S8"  400 "no control character in the first line"
    EmptyStartLine      "S12" 400 "a request line or status line, found an empty line"
    BadSpacing          "S12" 400 "method, target and version with one space between them"
    BadMethod           "S12" 400 "a token as method"
    NonAsciiTarget      "S12" 400 "an ASCII request target"
    MissingVersion      "S21" 400 "a version at the end of the request line"
    BadVersion          "S21" 400 "a version of the form HTTP/1.1"
    UnsupportedVersion  "S21" 505 "version HTTP/1.0 or HTTP/1.1"
    BadStatus           "S18" 400 "a status code of three digits, 100 or above"
    FoldedLine          "S8"  400 "no white space at the start of a field line"
    BadName             "S8"  400 "a token and a colon right behind it at the start of each field line"
    BadValue            "S8"  400 "no control character in a field value"
    RequestLineTooLong  "max_request_line"  414 "a shorter request line"
    HeadTooLarge        "max_head_bytes"    431 "a smaller head"
    TooManyLines        "max_header_fields" 431 "fewer field lines"

    // Targets and Host.
    Fragment            "S12" 400 "no # in the request target"
    NotOptions          "S12" 400 "* with OPTIONS only"
    UnknownForm         "S12" 400 "a request target that begins with / or http:// or https://"
    BadAuthority        "S11" 400 "host or host:port in the request target"
    HostMissing         "S11" 400 "a Host line"
    HostRepeated        "S11" 400 "one Host line only"
    HostInvalid         "S11" 400 "host or host:port in Host"
    HostMismatch        "S11" 400 "Host to be equal to the authority of the request target"
    DotSegment          "S20" 400 "no . or .. segment in the path"

    // Framing.
    LengthAndCoding     "S1"  400 "either Content-Length or Transfer-Encoding"
    BadLength           "S2"  400 "digits up to 2^63-1 in Content-Length"
    RepeatedLength      "S2"  400 "one Content-Length line"
    RepeatedCoding      "S3"  400 "one Transfer-Encoding line"
    CodingInHttp10      "S3"  400 "no Transfer-Encoding in HTTP/1.0"
    UnknownCoding       "S3"  501 "no transfer coding but chunked"

    // Chunked bodies.
    BadChunkSize        "S5"  400 "a chunk size in hexadecimal digits, then CRLF or an extension"
    ChunkTooLarge       "S5"  400 "a chunk size of at most 16 digits and 2^63-1"
    BadChunkLineEnd     "S5"  400 "CRLF at the end of a chunk line"
    ChunkLineTooLong    "S5"  400 "a shorter chunk line"
    TooManyExtensions   "S5"  400 "fewer bytes of chunk extensions"
    BadExtension        "S6"  400 "chunk extensions as ;name, ;name=token or ;name=\"text\""
    BadDataEnd          "S7"  400 "CRLF after the data of a chunk"
    TrailersTooLarge    "S8"  400 "a smaller trailer section"

    // What a gateway asks for beside.
    TooManyOptions      "G1"  400 "fewer connection options"
    TooManyInterim      "G9"  502 "fewer interim responses: limits.max_interim_responses is how many"
    OtherProtocol       "G14" 502 "Upgrade in a 101 response to name the one protocol that was asked for"
    ConnectMethod       "S16" 405 "another method than CONNECT"
    BadMaxForwards      "S2"  400 "digits in Max-Forwards"
}

impl HttpError {
    /// The rule that was broken, or the key of the limit, for the log.
    pub const fn rule(self) -> &'static str {
        self.row().0
    }

    /// How a request with that error is answered. A response with it makes a 502, whatever is wrong.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// What was expected instead, as a sentence.
    pub const fn expected(self) -> &'static str {
        self.row().2
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::http::start_line::reason_phrase;

    #[test]
    fn s22_each_error_has_a_sentence_of_its_own_that_says_what_was_expected() {
        let mut known = HashSet::new();
        for error in HttpError::ALL {
            let (rule, status, sentence) = error.row();
            let words = sentence.strip_prefix("expected ").unwrap_or_default();
            assert!(!words.is_empty() && !words.contains(char::is_control), "{sentence:?}");
            assert!(rule.starts_with(['S', 'G']) || rule.starts_with("max_"), "{sentence}: {rule:?}");
            assert!(!reason_phrase(status).is_empty(), "{sentence}: {status}");
            assert!(known.insert(sentence), "said of two errors: {sentence}");
        }
    }
}

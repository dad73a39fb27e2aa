//! Heads to measure with: what is read and written again and again.

/// The shortest request that HTTP/1.1 allows, and what a plain server answers.
pub const SMALL: [&str; 2] = [
    "GET /app/index.html HTTP/1.1\r\nHost: localhost:8080\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\
     Server: o\r\n\
     Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
     Content-Type: text/plain\r\n\
     Content-Length: 5\r\n\r\n",
];

/// What a browser sends, and a server answers that has something to say: twelve field lines each, those of the request 700
/// bytes.
pub const BROWSER: [&str; 2] = [
    "GET /app/some/where/index.html?query=1&other=2 HTTP/1.1\r\n\
     Host: www.example.com\r\n\
     Connection: keep-alive\r\n\
     Upgrade-Insecure-Requests: 1\r\n\
     User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36\r\n\
     Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\n\
     Sec-Fetch-Site: none\r\n\
     Sec-Fetch-Mode: navigate\r\n\
     Sec-Fetch-Dest: document\r\n\
     Referer: https://www.example.com/somewhere/else/with/a/longer/path\r\n\
     Accept-Encoding: gzip, deflate, br, zstd\r\n\
     Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
     Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1; visited=1700000000.1234567890\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\
     Server: nginx\r\n\
     Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
     Content-Type: text/html; charset=utf-8\r\n\
     Content-Length: 5\r\n\
     Connection: keep-alive\r\n\
     Cache-Control: max-age=60, public\r\n\
     ETag: \"0123456789abcdef\"\r\n\
     Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
     Vary: Accept-Encoding\r\n\
     X-Frame-Options: SAMEORIGIN\r\n\
     Set-Cookie: a=b; Path=/; HttpOnly; SameSite=Lax\r\n\
     Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n\r\n",
];

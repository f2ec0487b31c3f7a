package http1

import (
	"context"
	"crypto/tls"
	"time"
)

// HandshakeError is a TLS handshake that failed. Nothing of the request was sent.
type HandshakeError struct{ Err error }

// Error implements error.
func (e *HandshakeError) Error() string { return e.Err.Error() }

// Unwrap returns what crypto/tls said.
func (e *HandshakeError) Unwrap() error { return e.Err }

// handshake puts TLS over a new connection.
func (conn *connection) handshake(parent context.Context, c *Config) error {
	ctx, cancel := parent, context.CancelFunc(func() {})
	if c.HandshakeTimeout > 0 {
		ctx, cancel = context.WithTimeoutCause(parent, c.HandshakeTimeout, errHandshakeTooLong)
	}
	defer cancel()
	secure := tls.Client(conn.wire, c.TLS)
	conn.wire.records = &records{}
	conn.wire.begin(ctx, time.Now(), time.Time{})
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.close()
		switch {
		case parent.Err() != nil:
			return context.Cause(parent)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		return &HandshakeError{Err: err}
	}
	state := secure.ConnectionState()
	conn.stream, conn.state = secure, &state
	conn.in.Reset(secure)
	return nil
}

// records follows the records of TLS on their way in, each of which is five bytes that
// end with the length of what follows (RFC 8446 section 5.1).
type records struct {
	header [5]byte
	have   int // bytes of header
	left   int // bytes of the record that are to come
}

// pass takes note of bytes that were read.
func (r *records) pass(p []byte) {
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left -= n
			p = p[n:]
			continue
		}
		n := copy(r.header[r.have:], p)
		p = p[n:]
		if r.have += n; r.have == len(r.header) {
			r.have, r.left = 0, int(r.header[3])<<8|int(r.header[4])
		}
	}
}

// within reports whether a part of a record was read, and the rest is to come.
func (r *records) within() bool { return r != nil && (r.have > 0 || r.left > 0) }

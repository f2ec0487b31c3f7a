package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/keywarden/keywarden/pkg/gateway/policy/bodylimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/timeout"
	"github.com/keywarden/keywarden/pkg/problem"
)

// What the client is told when forwarding fails.
var (
	ErrUnreachable = problem.Define(problem.BadGateway, "gateway.upstream_unreachable",
		"The service behind this route cannot be reached.")
	ErrReset = problem.Define(problem.BadGateway, "gateway.upstream_reset",
		"The service behind this route closed the connection before it answered.")
	ErrUpstreamInvalid = problem.Define(problem.BadGateway, "gateway.upstream_invalid",
		"The service behind this route gave an answer that is not valid HTTP.")
	ErrTimeout = problem.Define(problem.GatewayTimeout, "gateway.upstream_timeout",
		"The service behind this route did not answer in time.")
	ErrBody = problem.Define(problem.Invalid, "request.body_invalid",
		"The body of the request is malformed or incomplete.")
	ErrBodyTimeout = problem.Define(problem.Timeout, "request.body_timeout",
		"The body of the request did not arrive in time.")
	ErrUpgrade = problem.Define(problem.Invalid, "request.upgrade_invalid",
		"The Upgrade field of the request is not valid.")
)

// What the access log is told when nobody is left to be told, or when the answer
// had begun already.
var (
	errClientGone = errors.New("the client went away")
	errBrokenOff  = errors.New("the response broke off: the service closed the connection, or a bound was reached")
)

// codeClientGone stands in the access log and in metrics where a problem's code
// would.
const codeClientGone = "request.canceled"

// StatusClientGone is written when the client has gone away before the answer, so
// that access logs tell it from a success. It is the number that nginx uses; no
// client sees it.
const StatusClientGone = 499

// fail answers in place of the service.
func (x *exchange) fail(w http.ResponseWriter, out *http.Request, err error) {
	x.info.Err = err
	x.noteBound(err)
	x.restoreHeader()
	if x.body.lost() {
		closeAfterAnswer(x.w)
	}
	p := x.classify(err)
	if p == nil {
		x.info.Code = codeClientGone
		x.record(0, codeClientGone)
		w.WriteHeader(StatusClientGone)
		return
	}
	if p.Code == ErrUpstreamInvalid.Code {
		x.info.Err = withoutQuotation(err)
	}
	x.info.Code, x.info.Policy = p.Code, x.refusedBy(p)
	x.record(0, p.Code)
	if x.info.Decide != nil {
		p = p.WithDecision(x.info.Decide(out, p))
	}
	p.Write(w, x.info.ID)
}

// refusedBy names the policy whose bound the exchange has broken; empty for none.
func (x *exchange) refusedBy(p *problem.Error) string {
	switch {
	case p.Code == bodylimit.ErrTooLarge.Code:
		return bodylimit.Name
	case x.info.Timeout > 0 && (errors.Is(x.cause(), errTimeout) || errors.Is(x.cause(), errBodyLate)):
		return timeout.Name
	default:
		return ""
	}
}

// withoutQuotation cuts from an error of net/http what it quotes of the service's
// answer, which is not for the log: it may hold anything, the request included.
func withoutQuotation(err error) error {
	text, _, quoted := strings.Cut(err.Error(), `"`)
	if !quoted {
		return err
	}
	return errors.New(strings.TrimRight(text, " :"))
}

// classify turns an error of the exchange into what the client is told; nil means
// that there is no client any more. The client's own fault comes first: a body
// that fails ends the outbound request with errors of all kinds.
func (x *exchange) classify(err error) *problem.Error {
	if !x.sent {
		return ErrUpgrade
	}
	bodyErr, cause := x.body.failure(), x.cause()
	var tooLarge *http.MaxBytesError
	var refused *problem.Error
	switch {
	case errors.As(err, &refused): // by the bulkhead or the breaker
		return refused
	case errors.As(bodyErr, &tooLarge):
		return bodylimit.ErrTooLarge
	case errors.Is(cause, errTimeout), errors.Is(cause, errIdle):
		return ErrTimeout
	case errors.Is(cause, errBodyIdle), errors.Is(cause, errBodyLate):
		return ErrBodyTimeout
	case errors.Is(bodyErr, io.ErrUnexpectedEOF): // the client may have closed one direction only
		return ErrBody
	case errors.Is(x.client.Err(), context.Canceled) || isConnectionError(bodyErr):
		return nil
	case errors.Is(bodyErr, os.ErrDeadlineExceeded):
		return ErrBodyTimeout
	case bodyErr != nil:
		return ErrBody
	default:
		return classifyUpstream(err)
	}
}

// classifyUpstream is for errors of the connection to the service.
func classifyUpstream(err error) *problem.Error {
	var late interface{ Timeout() bool }
	switch {
	case errors.As(err, &late) && late.Timeout():
		return ErrTimeout
	case isDialError(err) || isTLSError(err):
		return ErrUnreachable
	case isConnectionError(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return ErrReset
	default:
		return ErrUpstreamInvalid
	}
}

// isDialError reports whether there was no connection at all; the resolver's
// errors come as errors of dialing too.
func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isTLSError(err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		alert       tls.AlertError
		record      tls.RecordHeaderError
		hostname    x509.HostnameError
		op          *net.OpError
	)
	return errors.As(err, &certificate) || errors.As(err, &alert) || errors.As(err, &record) || errors.As(err, &hostname) ||
		errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error") // alerts, as crypto/tls wraps them
}

// isConnectionError reports whether a connection that was there has ended.
func isConnectionError(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

package proxy

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/problem"
)

// standingInterval is how often the credential of a stream is looked at again. It
// is in memory, so a look costs next to nothing.
const standingInterval = time.Second

// errStanding is the cause of a stream's end when its credential has ended, or does
// not allow it any more.
var errStanding = errors.New("the credential of the stream has been revoked or has expired")

// watchStanding ends a stream soon after its credential: a request that lasts for
// hours must not outlive a logout. What cannot be decided ends nothing: while the
// database is away, streams go on.
func (x *exchange) watchStanding(res *http.Response, r *http.Request) {
	if x.route.standing == nil || access.PrincipalFrom(r.Context()) == nil {
		return
	}
	over, answer := res.Request.Context().Done(), res.Body
	if x.light {
		x.over = make(chan struct{})
		over = x.over
	}
	go func() { // ends with the exchange
		ticker := time.NewTicker(standingInterval)
		defer ticker.Stop()
		for {
			select {
			case <-over:
				return
			case <-ticker.C:
			}
			if err := x.route.standing(r); err != nil {
				if kind := problem.From(err).Kind; kind == problem.Unauthenticated || kind == problem.Forbidden {
					x.revoke(answer)
					return
				}
			}
		}
	}()
}

// revoke ends the exchange, which waits for more of the answer.
func (x *exchange) revoke(answer io.Closer) {
	if x.light {
		x.revoked.Store(true)
		_ = answer.Close()
		return
	}
	x.cancel(errStanding)
}

package proxy

import (
	"crypto/rand"
	"net/http"
	"strings"

	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrLoop is the refusal of a request that has come back too often.
var ErrLoop = problem.Define(problem.LoopDetected, "gateway.loop",
	"The service behind this route leads back to the gateway.")

// headerLoop names the intermediaries that a request has passed (RFC 8586). Via would
// say it too, but servers treat what has passed a proxy differently: some do not
// compress for it.
const headerLoop = "Cdn-Loop"

// maxPasses is how often a request may leave one process. A gateway may be a service
// of its own on purpose, for one more step; a loop would go on until no connection is
// left.
const maxPasses = 3

// newLoopName names a process. Nobody else can make up the name, so that a client
// cannot be refused in the name of another.
func newLoopName() string { return "keywarden-" + strings.ToLower(rand.Text()) }

// checkLoop refuses a request that has left this process often enough. The field of
// the client counts as it came: naming it in Connection does not remove it.
func (p *Proxy) checkLoop(in http.Header) error {
	passes := 0
	for _, value := range in[headerLoop] {
		for entry := range strings.SplitSeq(value, ",") {
			name, _, _ := strings.Cut(entry, ";") // parameters are for whoever set them
			if strings.TrimSpace(name) == p.loop[0] {
				passes++
			}
		}
	}
	if passes >= maxPasses {
		return ErrLoop
	}
	return nil
}

// passed is the field with this process added to those that the request has passed.
func (p *Proxy) passed(in http.Header) string {
	before := in[headerLoop]
	if len(before) == 0 {
		return p.loop[0]
	}
	// Others' names stay as they are (RFC 8586 section 2).
	return strings.Join(before, ", ") + ", " + p.loop[0]
}

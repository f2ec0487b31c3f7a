package proxy

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
)

// modifyResponse checks what the service has answered and removes what is not for
// the client. An error makes [Service.handleError] answer instead.
func (s *Service) modifyResponse(res *http.Response) error {
	x := exchangeFrom(res.Request.Context())
	if err := checkStatus(res); err != nil {
		return err
	}
	x.record(res.StatusCode, "")
	if x.timer != nil && isStream(res) {
		x.timer.Stop()
	}
	delete(res.Header, headerRequestID) // ours is in the response already
	delete(res.Header, "Alt-Svc")       // an address of the service, not of the gateway
	x.restoreHeader()
	return nil
}

// errUnaskedUpgrade is a service that switches protocols by itself. The proxy
// would open a tunnel to it.
var errUnaskedUpgrade = errors.New("the service switched protocols without having been asked to")

func checkStatus(res *http.Response) error {
	switch {
	case res.StatusCode < 100:
		return fmt.Errorf("the service answered with status %d", res.StatusCode)
	case res.StatusCode == http.StatusSwitchingProtocols && res.Request.Header.Get("Upgrade") == "":
		return errUnaskedUpgrade
	default:
		return nil
	}
}

// isStream reports whether a response is meant to last.
func isStream(res *http.Response) bool {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return true
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return err == nil && kind == "text/event-stream"
}

package proxy

import (
	"fmt"
	"mime"
	"net/http"
	"strings"
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

// checkStatus refuses a status that cannot be answered, and a switch to another
// protocol than the client has asked for: inside of the tunnel that would open,
// the gateway sees nothing any more.
func checkStatus(res *http.Response) error {
	if res.StatusCode < 100 {
		return fmt.Errorf("the service answered with status %d", res.StatusCode)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	asked, got := res.Request.Header.Get("Upgrade"), res.Header.Get("Upgrade")
	if asked == "" || !strings.EqualFold(asked, got) {
		return fmt.Errorf("the service switched to protocol %q, asked for was %q", got, asked)
	}
	return nil
}

// isStream reports whether a response is meant to last.
func isStream(res *http.Response) bool {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return true
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return err == nil && kind == "text/event-stream"
}

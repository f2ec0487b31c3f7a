// Package channel sends notifications of alerts: as signed webhooks, to what understands
// the incoming webhooks of Slack, and as mail.
//
// It owns what is sent and how, and what a receiver does to believe it ([Verify]). When
// something is sent, and how often it is tried again, is for package alert.
package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/netguard"
)

// maxAnswer bounds what is read of an answer, in bytes. Nothing of it is kept.
const maxAnswer = 8 << 10

// userAgent names the sender.
const userAgent = "Keywarden-Alerts/1"

// post sends a body, and makes of everything but a 2xx answer an *alert.SendError.
func post(ctx context.Context, client *http.Client, url string, header http.Header, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return &alert.SendError{Reason: "the URL is not valid", Permanent: true} // the cause holds the URL
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	resp, err := client.Do(req)
	if err != nil {
		return transportError(err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return &alert.SendError{
		Reason: fmt.Sprintf("the receiver answered with status %d", resp.StatusCode), Permanent: resp.StatusCode == http.StatusGone,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After")),
	}
}

// retryAfter is the delay that an answer asks for, in seconds; dates are not looked at.
func retryAfter(text string) time.Duration {
	const most = 24 * 60 * 60
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, most)) * time.Second
}

// transportError says what is wrong in words that tell nothing about the network that
// the platform is in. The causes of net/http repeat the URL, which is a secret.
func transportError(err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, netguard.ErrAddress):
		return &alert.SendError{Reason: "the address is not public, and not among those that are allowed", Cause: netguard.ErrAddress}
	case errors.Is(err, netguard.ErrPort):
		return &alert.SendError{Reason: "the port is not among those that are allowed", Cause: netguard.ErrPort}
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return &alert.SendError{Reason: "no answer in time"}
	}
	return &alert.SendError{Reason: "no connection to the receiver, or it broke off"}
}

package channel

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/netguard"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Header fields of a webhook (standardwebhooks.com).
const (
	HeaderID        = "Webhook-Id"        // of the delivery: the same however often it is sent
	HeaderTimestamp = "Webhook-Timestamp" // when this attempt was made, in seconds since 1970
	HeaderSignature = "Webhook-Signature" // "v1," and the signature in base64; several are separated by spaces
)

// Webhook posts notifications as JSON, signed with HMAC-SHA256 as Standard Webhooks
// are: over the id, the time of the attempt and the body, joined by dots. It is an
// [alert.Sender].
type Webhook struct {
	client *http.Client
	now    func() time.Time
}

var _ alert.Sender = (*Webhook)(nil)

// NewWebhook makes a sender whose connections the guard allows.
func NewWebhook(guard *netguard.Guard, now func() time.Time) *Webhook {
	return &Webhook{client: guard.Client(alert.SendTimeout), now: now}
}

// Send implements [alert.Sender].
func (w *Webhook) Send(ctx context.Context, to alert.Destination, n alert.Notification) error {
	body, err := json.Marshal(n)
	if err != nil {
		return err
	}
	key, err := alert.SigningKey(to.Secret)
	if err != nil {
		return &alert.SendError{Reason: "the channel has no secret to sign with", Permanent: true}
	}
	at := strconv.FormatInt(w.now().Unix(), 10)
	header := http.Header{HeaderID: {n.ID}, HeaderTimestamp: {at}, HeaderSignature: {signatureScheme + signature(key, n.ID, at, body)}}
	return post(ctx, w.client, to.URL.Reveal(), header, body)
}

// Close ends idle connections.
func (w *Webhook) Close() { w.client.CloseIdleConnections() }

const signatureScheme = "v1,"

func signature(key []byte, id, at string, body []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + at + "."))
	m.Write(body)
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// ErrSignature says that a webhook is not to be believed.
var ErrSignature = errors.New("the webhook has no valid signature, or is too old")

// Tolerance is how far from the receiver's clock a webhook may be. Within it, the
// receiver tells repetitions by the id.
const Tolerance = 5 * time.Minute

// Verify is what a receiver does before it believes a webhook: the signature must be
// one under the secret over exactly these bytes, and the attempt no older than
// [Tolerance], so that what somebody has recorded cannot be sent again later.
func Verify(secret seal.Secret, header http.Header, body []byte, now time.Time) error {
	key, err := alert.SigningKey(secret)
	if err != nil {
		return err
	}
	id, at := header.Get(HeaderID), header.Get(HeaderTimestamp)
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || id == "" || now.Sub(time.Unix(seconds, 0)).Abs() > Tolerance {
		return ErrSignature
	}
	want := signature(key, id, at, body)
	for given := range strings.FieldsSeq(header.Get(HeaderSignature)) {
		if text, ok := strings.CutPrefix(given, signatureScheme); ok && hmac.Equal([]byte(text), []byte(want)) {
			return nil
		}
	}
	return ErrSignature
}

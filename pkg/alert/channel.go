package alert

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// Kind is how a channel sends.
type Kind string

// The kinds.
const (
	Webhook Kind = "webhook" // signed, as Standard Webhooks are
	Slack   Kind = "slack"   // an incoming webhook of Slack, or of what understands the same
	Email   Kind = "email"
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{Webhook, Slack, Email} }

// Channel is somebody who is told of alerts. What proves or names the receiver, the
// URL and the secret, is sealed and never shown again.
type Channel struct {
	ID         string
	Version    int64 // 1, and one more with every change
	Name       string
	Kind       Kind
	Enabled    bool
	Recipients []string // of Email
	Host       string   // of the URL: what may be shown of it
	KeyID      string   // of the master key that Sealed is under
	Sealed     []byte   // of Webhook and Slack; nil for Email

	CreatedAt, UpdatedAt time.Time
}

// ChannelSpec is what an operator says of a channel. Without URL or Secret a change
// keeps those there are.
type ChannelSpec struct {
	Name       string
	Kind       Kind
	Enabled    bool
	URL        seal.Secret
	Secret     seal.Secret
	Recipients []string
}

// sealedPart is the plaintext of Channel.Sealed.
type sealedPart struct {
	URL    string `json:"url"`
	Secret string `json:"secret,omitempty"`
}

// place is what the sealed part of a channel is sealed for: moved to another channel,
// or left behind by a newer version, it does not open.
func (c Channel) place() string {
	return "alert_channels/" + c.ID + "/" + strconv.FormatInt(c.Version, 10)
}

// open is where the channel leads to.
func (c Channel) open(ring *seal.Keyring) (Destination, error) {
	if c.Kind == Email {
		return Destination{Recipients: c.Recipients}, nil
	}
	plain, _, err := ring.Open(c.Sealed, c.place())
	if err != nil {
		return Destination{}, fmt.Errorf("opening the alert channel %s: %w", c.ID, err)
	}
	defer clear(plain)
	var part sealedPart
	if err := json.Unmarshal(plain, &part); err != nil {
		return Destination{}, fmt.Errorf("reading the alert channel %s: %w", c.ID, errSealedPart)
	}
	return Destination{URL: seal.NewSecret(part.URL), Secret: seal.NewSecret(part.Secret)}, nil
}

// errSealedPart stands for the decoder's error, which may quote what it read.
var errSealedPart = fmt.Errorf("what is sealed is not that of a channel")

// seal puts where the channel leads to into it, for its present version.
func (c *Channel) seal(ring *seal.Keyring, to Destination) error {
	if c.Kind == Email {
		c.KeyID, c.Sealed, c.Host = "", nil, ""
		return nil
	}
	plain, err := json.Marshal(sealedPart{URL: to.URL.Reveal(), Secret: to.Secret.Reveal()})
	if err != nil {
		return err
	}
	defer clear(plain)
	u, err := url.Parse(to.URL.Reveal())
	if err != nil {
		return errSealedPart
	}
	c.KeyID, c.Sealed, c.Host = ring.ID(), ring.Seal(plain, c.place()), u.Host
	return nil
}

// Prefix and sizes of the secrets that webhooks are signed with, those of Standard
// Webhooks (standardwebhooks.com): the prefix, and 24 to 64 bytes in base64.
const (
	secretPrefix = "whsec_"
	minSecret    = 24
	maxSecret    = 64
)

// SigningKey is the key that a webhook's secret stands for.
func SigningKey(secret seal.Secret) ([]byte, error) {
	text, ok := strings.CutPrefix(secret.Reveal(), secretPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, errSecret
	}
	return key, nil
}

var errSecret = fmt.Errorf("must be %s and %d to %d random bytes in base64", secretPrefix, minSecret, maxSecret)

const maxURL = 2048

// validate names what is wrong with s. url checks the URL.
func (s ChannelSpec) validate(url func(string) error) error {
	var m mistakes
	m.text("name", s.Name, 1, MaxName)
	m.add(!slices.Contains(Kinds(), s.Kind), "kind", "must be one of %s%s", joined(Kinds()), question(s.Kind, Kinds()))
	if len(m) > 0 {
		return m.err()
	}
	if s.Kind == Email {
		m.add(!s.URL.Empty(), "url", "does not belong to a channel of the kind email")
		m.recipients(s.Recipients)
	} else {
		m.add(len(s.Recipients) > 0, "recipients", "belongs to channels of the kind email")
		m.url(s.URL.Reveal(), url)
	}
	if s.Kind == Webhook {
		if _, err := SigningKey(s.Secret); err != nil {
			m.add(true, "secret", "%v", err)
		}
	} else {
		m.add(!s.Secret.Empty(), "secret", "belongs to channels of the kind webhook")
	}
	return m.err()
}

func (m *mistakes) url(text string, check func(string) error) {
	if len(text) > maxURL {
		m.add(true, "url", "must have at most %d bytes", maxURL)
	} else if err := check(text); err != nil {
		m.add(true, "url", "%v", err)
	}
}

func (m *mistakes) recipients(list []string) {
	m.add(len(list) < 1 || len(list) > MaxRecipients, "recipients", "must be from 1 to %d addresses", MaxRecipients)
	if len(list) > MaxRecipients {
		return
	}
	const longest = 254 // RFC 5321 section 4.5.3.1.3
	for i, r := range list {
		a, err := mail.ParseAddress(r)
		plain := err == nil && a.Address == r && len(r) <= longest && !strings.ContainsFunc(r, unprintable)
		m.add(!plain, "recipients["+strconv.Itoa(i)+"]", "must be an address such as ops@example.com")
		m.add(slices.Contains(list[:i], r), "recipients["+strconv.Itoa(i)+"]", "is given twice")
	}
}

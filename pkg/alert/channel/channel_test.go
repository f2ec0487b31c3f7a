package channel_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	netmail "net/mail"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/alert/channel"
	"github.com/keywarden/keywarden/pkg/netguard"
	"github.com/keywarden/keywarden/pkg/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var at = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

func notification() alert.Notification {
	return alert.Notification{
		ID: "0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90", Event: alert.EventFiring, At: at,
		Alert: alert.Alert{
			ID: "a", RuleID: "r", Rule: "errors <!channel> of @here & co", Signal: alert.ServerErrorRate, Severity: alert.Critical, Summary: "call <http://evil|us>",
			State: alert.Firing, Value: 12.5, Unit: "%", Threshold: 5, Volume: 800, FiredAt: at, Filter: map[string]string{"route": "orders"},
		},
	}
}

func guard(t testing.TB, allow ...string) *netguard.Guard {
	t.Helper()
	var list []netip.Prefix
	for _, a := range allow {
		list = append(list, netip.MustParsePrefix(a))
	}
	g, err := netguard.New(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func secret(fill byte) seal.Secret {
	return seal.NewSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(fill), 32))))
}

// reception is a request as it came.
type reception struct {
	header http.Header
	body   []byte
}

// receiver answers with status, and notes what it gets.
func receiver(t *testing.T, status int, header http.Header) (string, func() []reception) {
	t.Helper()
	var mu sync.Mutex
	var got []reception
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		got = append(got, reception{r.Header.Clone(), body})
		mu.Unlock()
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.Repeat("private words ", 10_000))
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []reception { mu.Lock(); defer mu.Unlock(); return got }
}

func TestWebhooksAreSignedAsStandardWebhooksAre(t *testing.T) {
	url, got := receiver(t, http.StatusNoContent, nil)
	w := channel.NewWebhook(guard(t, "127.0.0.0/8"), func() time.Time { return at })
	defer w.Close()
	to := alert.Destination{URL: seal.NewSecret(url + "/hook"), Secret: secret('k')}
	for range 2 {
		if err := w.Send(t.Context(), to, notification()); err != nil {
			t.Fatal(err)
		}
	}
	all := got()
	if len(all) != 2 || all[0].header.Get("Webhook-Id") != notification().ID || all[1].header.Get("Webhook-Id") != notification().ID {
		t.Fatalf("a repetition has another id: %+v", all)
	}
	r := all[0]
	var body struct {
		Type string         `json:"type"`
		Data map[string]any `json:"data"`
	}
	if err := json.Unmarshal(r.body, &body); err != nil || body.Type != "alert.firing" || body.Data["value"] != 12.5 {
		t.Errorf("%s, %v", r.body, err)
	}
	if err := channel.Verify(to.Secret, r.header, r.body, at.Add(4*time.Minute)); err != nil {
		t.Error(err)
	}
	other := func(name, value string) http.Header {
		h := r.header.Clone()
		h.Set(name, value)
		return h
	}
	for name, err := range map[string]error{
		"another secret":      channel.Verify(secret('x'), r.header, r.body, at),
		"another body":        channel.Verify(to.Secret, r.header, append(r.body, ' '), at),
		"another id":          channel.Verify(to.Secret, other("Webhook-Id", "x"), r.body, at),
		"another time":        channel.Verify(to.Secret, other("Webhook-Timestamp", "1777888801"), r.body, at),
		"replayed later":      channel.Verify(to.Secret, r.header, r.body, at.Add(6*time.Minute)),
		"from the future":     channel.Verify(to.Secret, r.header, r.body, at.Add(-6*time.Minute)),
		"no signature":        channel.Verify(to.Secret, other("Webhook-Signature", ""), r.body, at),
		"another scheme":      channel.Verify(to.Secret, other("Webhook-Signature", strings.Replace(r.header.Get("Webhook-Signature"), "v1,", "v2,", 1)), r.body, at),
		"nothing of it":       channel.Verify(to.Secret, http.Header{}, r.body, at),
		"no number as a time": channel.Verify(to.Secret, other("Webhook-Timestamp", "now"), r.body, at),
	} {
		if !errors.Is(err, channel.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	rotating := other("Webhook-Signature", "v1,AAAA v9,x "+r.header.Get("Webhook-Signature"))
	if err := channel.Verify(to.Secret, rotating, r.body, at); err != nil {
		t.Errorf("one of several signatures: %v", err)
	}
}

// TestKnownSignature is the example of the reference libraries of Standard Webhooks.
func TestKnownSignature(t *testing.T) {
	header := http.Header{
		"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}
	err := channel.Verify(seal.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), header, []byte(`{"test": 2432232314}`), time.Unix(1614265330, 0))
	if err != nil {
		t.Error(err)
	}
}

// TestRefusalsSayWhatHappenedAndNothingElse: neither words of the receiver nor the URL
// get into what people and logs are told.
func TestRefusalsSayWhatHappenedAndNothingElse(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	url := func(status int, header http.Header) string { u, _ := receiver(t, status, header); return u }
	for name, c := range map[string]struct {
		url, reason string
		permanent   bool
		wait        time.Duration
	}{
		"error":       {url(500, nil), "the receiver answered with status 500", false, 0},
		"redirect":    {url(307, http.Header{"Location": {"http://169.254.169.254/"}}), "the receiver answered with status 307", false, 0},
		"gone":        {url(410, nil), "the receiver answered with status 410", true, 0},
		"busy":        {url(429, http.Header{"Retry-After": {"120"}}), "the receiver answered with status 429", false, 2 * time.Minute},
		"forever":     {url(503, http.Header{"Retry-After": {"99999999999"}}), "the receiver answered with status 503", false, 24 * time.Hour},
		"closed":      {"http://" + closed.Addr().String(), "no connection to the receiver, or it broke off", false, 0},
		"inside":      {"http://10.0.0.1/", "the address is not public, and not among those that are allowed", false, 0},
		"metadata":    {"http://169.254.169.254/latest/", "the address is not public, and not among those that are allowed", false, 0},
		"inside name": {"http://ip6-localhost/", "", false, 0},
		"port":        {"http://1.1.1.1:22/", "the port is not among those that are allowed", false, 0},
	} {
		w := channel.NewWebhook(guard(t, "127.0.0.0/8"), func() time.Time { return at })
		err := w.Send(t.Context(), alert.Destination{URL: seal.NewSecret(c.url + "?token=canary"), Secret: secret('k')}, notification())
		w.Close()
		var why *alert.SendError
		if !errors.As(err, &why) || c.reason != "" && why.Reason != c.reason || why.Permanent != c.permanent || why.RetryAfter != c.wait {
			t.Errorf("%s: %+v", name, err)
		}
		if text := err.Error(); strings.Contains(text, "canary") || strings.Contains(text, "private words") || strings.Contains(text, "127.0.0.1") || strings.Contains(text, "10.0.0.1") {
			t.Errorf("%s: the error says %q", name, text)
		}
	}
}

func TestSlackMessagesCannotMentionAnybody(t *testing.T) {
	url, got := receiver(t, http.StatusOK, nil)
	s := channel.NewSlack(guard(t, "127.0.0.0/8"))
	defer s.Close()
	n := notification()
	for _, event := range []alert.Event{alert.EventFiring, alert.EventResolved, alert.EventTest} {
		n.Event = event
		if err := s.Send(t.Context(), alert.Destination{URL: seal.NewSecret(url)}, n); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range got() {
		var m struct {
			Text        string `json:"text"`
			Attachments []struct {
				Color, Text, Footer string
				Fields              []struct{ Title, Value string }
			} `json:"attachments"`
		}
		if err := json.Unmarshal(r.body, &m); err != nil || len(m.Attachments) != 1 || m.Attachments[0].Footer != n.ID {
			t.Fatalf("%s, %v", r.body, err)
		}
		all := m.Text + m.Attachments[0].Text
		if strings.ContainsAny(all, "<>") || strings.Contains(all, "@here") {
			t.Errorf("%q", all)
		}
		if want := [][2]string{{"[critical] errors", "danger"}, {"[resolved] errors", "good"}, {"[test]", "#439fe0"}}[i]; !strings.HasPrefix(m.Text, want[0]) || m.Attachments[0].Color != want[1] {
			t.Errorf("%q in %s", m.Text, m.Attachments[0].Color)
		}
		if i == 0 && (len(m.Attachments[0].Fields) < 5 || m.Attachments[0].Fields[1].Value != "12.5%") {
			t.Errorf("%+v", m.Attachments[0].Fields)
		}
	}
}

// sink is an SMTP server that keeps what it is given.
type sink struct {
	mu     sync.Mutex
	mails  []letter
	users  []string
	refuse error // of a recipient
}

type letter struct {
	from string
	to   []string
	text string
}

// session is one connection to a sink.
type session struct {
	*sink
	letter
}

func (s *sink) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{sink: s}, nil }

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != "right" {
			return smtp.ErrAuthFailed
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users = append(s.users, user)
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error { s.from = from; return nil }

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return s.refuse
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.text = string(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, s.letter)
	return err
}

func (s *session) Reset() { s.letter = letter{} }

func (s *session) Logout() error { return nil }

// serveMail runs a sink; with TLS from the beginning if implicit, and a certificate for
// 127.0.0.1 in any case.
func serveMail(t *testing.T, s *sink, implicit bool) (port int, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	server := smtp.NewServer(s)
	server.Domain, server.TLSConfig, server.AllowInsecureAuth, server.ErrorLog = "mail.example.com", config, true, discard{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = listener.Addr().(*net.TCPAddr).Port
	if implicit {
		listener = tls.NewListener(listener, config)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return port, roots
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

func mailer(t *testing.T, o channel.MailOptions) *channel.Mail {
	t.Helper()
	o.Host, o.From = "127.0.0.1", "keywarden@example.com"
	m, err := channel.NewMail(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMailArrivesAtARealServer(t *testing.T) {
	to := alert.Destination{Recipients: []string{"ops@example.com", "boss@example.org"}}
	for _, security := range []channel.Security{channel.Plain, channel.StartTLS, channel.ImplicitTLS} {
		s := &sink{}
		port, roots := serveMail(t, s, security == channel.ImplicitTLS)
		m := mailer(t, channel.MailOptions{Port: port, Security: security, Username: "kw", Password: seal.NewSecret("right"), Roots: roots})
		for range 2 {
			if err := m.Send(t.Context(), to, notification()); err != nil {
				t.Fatalf("%s: %v", security, err)
			}
		}
		if len(s.mails) != 2 || len(s.users) != 2 || strings.Join(s.mails[0].to, " ") != "ops@example.com boss@example.org" || s.mails[0].from != "keywarden@example.com" {
			t.Fatalf("%s: %+v", security, s)
		}
		for _, l := range s.mails {
			msg, err := netmail.ReadMessage(strings.NewReader(l.text))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(msg.Body)
			if id := msg.Header.Get("Message-ID"); id != "<"+notification().ID+"@example.com>" {
				t.Errorf("the id is %s", id)
			}
			if subject := msg.Header.Get("Subject"); subject != "[critical] errors <!channel> of @here & co" || msg.Header.Get("Auto-Submitted") != "auto-generated" {
				t.Errorf("%q, %v", subject, msg.Header)
			}
			if !strings.Contains(string(body), "12.5%") || !strings.Contains(string(body), "route") {
				t.Errorf("%s", body)
			}
		}
	}
}

func TestMailErrors(t *testing.T) {
	to := alert.Destination{Recipients: []string{"ops@example.com"}}
	s := &sink{}
	port, roots := serveMail(t, s, false)
	right := channel.MailOptions{Port: port, Security: channel.StartTLS, Username: "kw", Password: seal.NewSecret("right"), Roots: roots}
	for name, change := range map[string]func(*channel.MailOptions){
		"an authority that nobody trusts": func(o *channel.MailOptions) { o.Roots = x509.NewCertPool() },
		"a wrong password":                func(o *channel.MailOptions) { o.Password = seal.NewSecret("canary") },
		"a closed port":                   func(o *channel.MailOptions) { o.Port = 1 },
	} {
		o := right
		change(&o)
		err := mailer(t, o).Send(t.Context(), to, notification())
		var why *alert.SendError
		if !errors.As(err, &why) || why.Permanent || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.refuse = &smtp.SMTPError{Code: 451, Message: "later"}
	if err := mailer(t, right).Send(t.Context(), to, notification()); err == nil || !strings.HasPrefix(err.Error(), "the mail server put it off") {
		t.Error(err)
	}
	if len(s.mails) != 0 {
		t.Errorf("%d mails", len(s.mails))
	}
	// A server that says nothing does not hold the sender for longer than it may.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	right.Port = silent.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := mailer(t, right).Send(ctx, to, notification()); err == nil {
		t.Error("silence is success")
	}
}

func TestBadMailOptionsAreRefused(t *testing.T) {
	good := channel.MailOptions{Host: "mail.example.com", Security: channel.StartTLS, From: "kw@example.com"}
	if _, err := channel.NewMail(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*channel.MailOptions){
		"no host":          func(o *channel.MailOptions) { o.Host = "" },
		"no sender":        func(o *channel.MailOptions) { o.From = "" },
		"unknown security": func(o *channel.MailOptions) { o.Security = "ssl" },
		"a port":           func(o *channel.MailOptions) { o.Port = 70_000 },
		"no password":      func(o *channel.MailOptions) { o.Username = "kw" },
		"password in the open": func(o *channel.MailOptions) {
			o.Security, o.Username, o.Password = channel.Plain, "kw", seal.NewSecret("x")
		},
	} {
		o := good
		change(&o)
		if _, err := channel.NewMail(o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("id", "1777888800", "v1,abc", []byte("{}"))
	f.Fuzz(func(t *testing.T, id, stamp, sig string, body []byte) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {stamp}, "Webhook-Signature": {sig}}
		if channel.Verify(secret('k'), h, body, at) == nil {
			t.Fatal("a signature was guessed")
		}
	})
}

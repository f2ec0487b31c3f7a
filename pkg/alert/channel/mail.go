package channel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/netip"
	"strings"

	"github.com/wneessen/go-mail"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Security is how a connection to a mail server is encrypted.
type Security string

// The ways.
const (
	StartTLS    Security = "starttls" // required: a server without it is not spoken to
	ImplicitTLS Security = "tls"
	Plain       Security = "none"
)

// MailOptions name the mail server of the installation. It comes from the
// configuration of the process, so that no guard stands before it: who can set it can
// reach that network anyway.
type MailOptions struct {
	Host     string
	Port     int // 0: 587 with starttls, 465 with tls, 25 without either
	Security Security
	Username string // empty for none
	Password seal.Secret
	From     string         // address of the sender
	Roots    *x509.CertPool // nil for those of the system
}

// Mail sends notifications as mail in plain text. It makes a connection for each, and
// is an [alert.Sender].
type Mail struct {
	opts   MailOptions
	domain string // of the sender: ids of messages end with it
}

var _ alert.Sender = (*Mail)(nil)

// NewMail makes a sender. It connects to nothing yet.
func NewMail(o MailOptions) (*Mail, error) {
	from, err := netmail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("the sender of mail, %q, is not an address", o.From)
	}
	if o.Port == 0 {
		o.Port = map[Security]int{StartTLS: 587, ImplicitTLS: 465, Plain: 25}[o.Security]
	}
	switch {
	case o.Host == "":
		return nil, errors.New("the mail server has no host")
	case o.Security != StartTLS && o.Security != ImplicitTLS && o.Security != Plain:
		return nil, fmt.Errorf("the mail server is reached by %q, must be %s, %s or %s", o.Security, StartTLS, ImplicitTLS, Plain)
	case o.Port < 1 || o.Port > 65535:
		return nil, fmt.Errorf("the port of the mail server is %d", o.Port)
	case (o.Username == "") != o.Password.Empty():
		return nil, errors.New("the mail server needs both a user name and a password, or neither")
	case o.Username != "" && o.Security == Plain && !loopback(o.Host):
		return nil, errors.New("the password of the mail server would go over the network in the clear: use starttls or tls")
	}
	return &Mail{opts: o, domain: from.Address[strings.LastIndexByte(from.Address, '@')+1:]}, nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Send implements [alert.Sender]. The message id is made of that of the delivery, so
// that mailboxes can tell repetitions.
func (m *Mail) Send(ctx context.Context, to alert.Destination, n alert.Notification) error {
	msg := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := errors.Join(msg.From(m.opts.From), msg.To(to.Recipients...)); err != nil {
		return &alert.SendError{Reason: "a recipient is not an address", Permanent: true}
	}
	msg.Subject(n.Title())
	msg.SetMessageIDWithValue(n.ID + "@" + m.domain)
	msg.SetDateWithValue(n.At)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's holiday answers it
	msg.SetBodyString(mail.TypeTextPlain, text(n))
	if err := m.send(ctx, msg); err != nil {
		return mailError(err)
	}
	return nil
}

// send hands a message to the server. It ends with ctx, whatever the server does.
func (m *Mail) send(ctx context.Context, msg *mail.Msg) error {
	end := func() {}
	defer func() { end() }()
	client, err := m.client(func(dialing context.Context, network, address string) (net.Conn, error) {
		conn, err := m.dial(dialing, network, address)
		if err == nil { // the library forgets the connection when it fails later
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			end = func() { stop(); _ = conn.Close() }
		}
		return conn, err
	})
	if err != nil {
		return err
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return err
	}
	if err := client.SendWithSMTPClient(session, msg); err != nil {
		return err
	}
	_ = client.CloseWithSMTPClient(session) // the server has taken it, however it says goodbye
	return nil
}

// dial connects to the server.
func (m *Mail) dial(ctx context.Context, network, address string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: alert.SendTimeout}
	if m.opts.Security != ImplicitTLS {
		return plain.DialContext(ctx, network, address)
	}
	return (&tls.Dialer{NetDialer: plain, Config: m.tls()}).DialContext(ctx, network, address)
}

func (m *Mail) tls() *tls.Config {
	return &tls.Config{ServerName: m.opts.Host, RootCAs: m.opts.Roots, MinVersion: tls.VersionTLS12}
}

func (m *Mail) client(dial mail.DialContextFunc) (*mail.Client, error) {
	o := m.opts
	options := []mail.Option{
		mail.WithPort(o.Port), mail.WithTimeout(alert.SendTimeout), mail.WithTLSConfig(m.tls()), mail.WithHELO(m.domain),
		mail.WithDialContextFunc(dial),
	}
	switch o.Security {
	case ImplicitTLS:
		options = append(options, mail.WithSSL())
	case StartTLS:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	case Plain:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	}
	if o.Username != "" {
		options = append(options, mail.WithUsername(o.Username), mail.WithPassword(o.Password.Reveal()),
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthPlain, mail.SMTPAuthLogin))
	}
	return mail.NewClient(o.Host, options...)
}

// mailError says what is wrong without what the server said.
func mailError(err error) error {
	var sent *mail.SendError
	var timeout net.Error
	switch {
	case errors.As(err, &sent) && sent.IsTemp():
		return &alert.SendError{Reason: "the mail server put it off", Cause: err}
	case errors.As(err, &sent):
		return &alert.SendError{Reason: "the mail server refused it", Cause: err}
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return &alert.SendError{Reason: "the mail server did not answer in time", Cause: err}
	}
	return &alert.SendError{Reason: "no connection to the mail server, or it let nobody in", Cause: err}
}

// text is the body of a mail.
func text(n alert.Notification) string {
	var b strings.Builder
	b.WriteString(n.Title() + "\n")
	if n.Alert.Summary != "" {
		b.WriteString("\n" + n.Alert.Summary + "\n")
	}
	b.WriteString("\n")
	for _, f := range n.Facts() {
		_, _ = fmt.Fprintf(&b, "%-10s %s\n", f.Name+":", f.Value)
	}
	_, _ = fmt.Fprintf(&b, "\nDelivery %s\n", n.ID)
	return b.String()
}

package channel

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/netguard"
)

// Slack posts notifications to incoming webhooks of Slack, Mattermost, Rocket.Chat and
// what else understands the same JSON. The URL is the credential. It is an
// [alert.Sender].
type Slack struct{ client *http.Client }

var _ alert.Sender = (*Slack)(nil)

// NewSlack makes a sender whose connections the guard allows.
func NewSlack(guard *netguard.Guard) *Slack {
	return &Slack{client: guard.Client(alert.SendTimeout)}
}

// slackMessage is the part of a message that all of them understand.
type slackMessage struct {
	Text        string            `json:"text"`
	Attachments []slackAttachment `json:"attachments,omitempty"`
}

type slackAttachment struct {
	Color  string       `json:"color"`
	Text   string       `json:"text,omitempty"`
	Fields []slackField `json:"fields,omitempty"`
	Footer string       `json:"footer"` // the id of the delivery, by which people tell repetitions
	Time   int64        `json:"ts"`
}

type slackField struct {
	Title string `json:"title"`
	Value string `json:"value"`
	Short bool   `json:"short"`
}

// Send implements [alert.Sender].
func (s *Slack) Send(ctx context.Context, to alert.Destination, n alert.Notification) error {
	body, err := json.Marshal(message(n))
	if err != nil {
		return err
	}
	return post(ctx, s.client, to.URL.Reveal(), http.Header{}, body)
}

// Close ends idle connections.
func (s *Slack) Close() { s.client.CloseIdleConnections() }

func message(n alert.Notification) slackMessage {
	a := slackAttachment{Color: color(n), Text: slackText(n.Alert.Summary), Footer: n.ID, Time: n.At.Unix()}
	for _, f := range n.Facts() {
		a.Fields = append(a.Fields, slackField{Title: f.Name, Value: slackText(f.Value), Short: len(f.Value) <= 40})
	}
	return slackMessage{Text: slackText(n.Title()), Attachments: []slackAttachment{a}}
}

func color(n alert.Notification) string {
	switch {
	case n.Event == alert.EventResolved:
		return "good"
	case n.Event == alert.EventTest, n.Alert.Severity == alert.Info:
		return "#439fe0"
	case n.Alert.Severity == alert.Critical:
		return "danger"
	}
	return "warning"
}

// slackText takes from text what Slack would make a link or a mention of: a rule that
// is named <!channel> must not call everybody.
func slackText(text string) string {
	text = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
	// Others than Slack mention by the plain word.
	return strings.ReplaceAll(text, "@", "@\u200b")
}

package alert_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// shelf is the part of a store that keeps channels and silences, in memory.
type shelf struct {
	alert.Store
	channels map[string]alert.Channel
	trail    []changes.Change
}

func (s *shelf) AlertChannel(_ context.Context, id string) (alert.Channel, error) {
	ch, ok := s.channels[id]
	if !ok {
		return ch, alert.ErrChannelNotFound
	}
	return ch, nil
}

func (s *shelf) InsertAlertChannel(_ context.Context, ch alert.Channel, c changes.Change) (alert.Channel, error) {
	s.channels[ch.ID], s.trail = ch, append(s.trail, c)
	return ch, nil
}

func (s *shelf) UpdateAlertChannel(ctx context.Context, ch alert.Channel, c changes.Change) (alert.Channel, error) {
	return s.InsertAlertChannel(ctx, ch, c)
}

func (s *shelf) InsertAlertSilence(_ context.Context, v alert.Silence, c changes.Change) (alert.Silence, error) {
	s.trail = append(s.trail, c)
	return v, nil
}

func (s *shelf) RecordChange(_ context.Context, c changes.Change) (int64, error) {
	s.trail = append(s.trail, c)
	return 0, nil
}

func newService(t *testing.T, send sender) (*alert.Service, *shelf) {
	t.Helper()
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{channels: map[string]alert.Channel{}}
	return alert.NewService(alert.Options{
		Store: s, Ring: ring, Senders: map[alert.Kind]alert.Sender{alert.Webhook: send, alert.Slack: send}, Now: func() time.Time { return start },
		CheckURL: func(text string) error {
			if !strings.HasPrefix(text, "https://") {
				return errors.New("must be https")
			}
			return nil
		}, Logger: slog.New(slog.DiscardHandler),
	}), s
}

func whsec(fill byte, size int) seal.Secret {
	return seal.NewSecret("whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(fill), size))))
}

func TestBadChannelsAreRefusedWithoutRepeatingTheirSecrets(t *testing.T) {
	service, _ := newService(t, nil)
	url := seal.NewSecret("https://hooks.example.com/canary")
	hook := alert.ChannelSpec{Name: "ops", Kind: alert.Webhook, URL: url, Secret: whsec('k', 32)}
	for name, c := range map[string]struct {
		change func(*alert.ChannelSpec)
		wrong  []string
	}{
		"no name":         {func(s *alert.ChannelSpec) { s.Name = "" }, []string{"name"}},
		"an unknown kind": {func(s *alert.ChannelSpec) { s.Kind = "pager" }, []string{"kind"}},
		"no URL":          {func(s *alert.ChannelSpec) { s.URL = seal.Secret{} }, []string{"url"}},
		"a bad URL":       {func(s *alert.ChannelSpec) { s.URL = seal.NewSecret("http://canary") }, []string{"url"}},
		"a long URL":      {func(s *alert.ChannelSpec) { s.URL = seal.NewSecret("https://x/" + strings.Repeat("canary", 400)) }, []string{"url"}},
		"no secret":       {func(s *alert.ChannelSpec) { s.Secret = seal.Secret{} }, []string{"secret"}},
		"a short secret":  {func(s *alert.ChannelSpec) { s.Secret = whsec('c', 23) }, []string{"secret"}},
		"a long secret":   {func(s *alert.ChannelSpec) { s.Secret = whsec('c', 65) }, []string{"secret"}},
		"another secret":  {func(s *alert.ChannelSpec) { s.Secret = seal.NewSecret("canary-canary-canary-canary-canary") }, []string{"secret"}},
		"recipients":      {func(s *alert.ChannelSpec) { s.Recipients = []string{"a@b.c"} }, []string{"recipients"}},
		"slack's secret":  {func(s *alert.ChannelSpec) { s.Kind = alert.Slack }, []string{"secret"}},
		"mail with both":  {func(s *alert.ChannelSpec) { s.Kind = alert.Email }, []string{"url", "recipients", "secret"}},
		"mail to nonsense": {func(s *alert.ChannelSpec) {
			*s = alert.ChannelSpec{Name: "m", Kind: alert.Email, Recipients: []string{"ops", "Ops <a@b.c>", "a@b.c", "a@b.c", "a@b.c\r\nBcc: x@y.z"}}
		},
			[]string{"recipients[0]", "recipients[1]", "recipients[3]", "recipients[4]"}},
		"mail to too many": {func(s *alert.ChannelSpec) {
			*s = alert.ChannelSpec{Name: "m", Kind: alert.Email, Recipients: make([]string, 21)}
		}, []string{"recipients"}},
	} {
		spec := hook
		c.change(&spec)
		_, err := service.CreateChannel(t.Context(), spec)
		if diff := cmp.Diff(c.wrong, fields(t, err)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if strings.Contains(fmt.Sprintf("%+v", err), "canary") {
			t.Errorf("%s: %+v", name, err)
		}
	}
	if _, err := service.CreateChannel(t.Context(), alert.ChannelSpec{Name: "m", Kind: alert.Email, Recipients: []string{"ops@example.com"}}); !errors.Is(err, alert.ErrNoMail) {
		t.Errorf("without a mail server: %v", err)
	}
}

// TestSecretStaysWithItsReceiver: a change keeps what is not given, but never signs for
// another receiver with the secret of this one.
func TestSecretStaysWithItsReceiver(t *testing.T) {
	var to alert.Destination
	service, s := newService(t, func(_ context.Context, d alert.Destination, _ alert.Notification) error { to = d; return nil })
	one, other := seal.NewSecret("https://one.example.com/"), seal.NewSecret("https://other.example.com/")
	ch, err := service.CreateChannel(t.Context(), alert.ChannelSpec{Name: "ops", Kind: alert.Webhook, URL: one, Secret: whsec('k', 32)})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spec   alert.ChannelSpec
		wrong  []string
		url    seal.Secret
		secret seal.Secret
	}{
		"neither":          {alert.ChannelSpec{Name: "new name"}, nil, one, whsec('k', 32)},
		"the same URL":     {alert.ChannelSpec{Name: "ops", URL: one}, nil, one, whsec('k', 32)},
		"another secret":   {alert.ChannelSpec{Name: "ops", Secret: whsec('n', 24)}, nil, one, whsec('n', 24)},
		"both":             {alert.ChannelSpec{Name: "ops", URL: other, Secret: whsec('n', 24)}, nil, other, whsec('n', 24)},
		"another URL":      {alert.ChannelSpec{Name: "ops", URL: other}, []string{"secret"}, one, whsec('k', 32)},
		"another kind":     {alert.ChannelSpec{Name: "ops", Kind: alert.Slack}, []string{"kind"}, one, whsec('k', 32)},
		"the kind that is": {alert.ChannelSpec{Name: "ops", Kind: alert.Webhook}, nil, one, whsec('k', 32)},
	} {
		s.channels[ch.ID] = ch
		_, err := service.UpdateChannel(t.Context(), ch.ID, c.spec)
		if diff := cmp.Diff(c.wrong, fields(t, err)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if _, err := service.TestChannel(t.Context(), ch.ID); err != nil || !to.URL.Equal(c.url.Reveal()) || !to.Secret.Equal(c.secret.Reveal()) {
			t.Errorf("%s: it goes to %s: %v", name, to.URL.Reveal(), err)
		}
	}
}

func TestFailedTestsSayWhyAndAreAudited(t *testing.T) {
	service, s := newService(t, func(context.Context, alert.Destination, alert.Notification) error {
		return &alert.SendError{Reason: "the receiver answered with status 500", Cause: errors.New("canary")}
	})
	ch, err := service.CreateChannel(t.Context(), alert.ChannelSpec{Name: "ops", Kind: alert.Slack, URL: seal.NewSecret("https://x/canary")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = service.TestChannel(t.Context(), ch.ID)
	var p *problem.Error
	if !errors.As(err, &p) || p.Code != alert.ErrTestFailed.Code || p.Detail != "The channel did not take the notification: the receiver answered with status 500." {
		t.Errorf("%+v", p)
	}
	if last := s.trail[len(s.trail)-1].Audit; last.Action != "alert_channel.tested" || last.Result != "failure" || strings.Contains(fmt.Sprint(s.trail), "canary") {
		t.Errorf("%+v", s.trail)
	}
	if _, err := service.TestChannel(t.Context(), "x"); !errors.Is(err, alert.ErrChannelNotFound) {
		t.Error(err)
	}
}

func TestSilencesAreBounded(t *testing.T) {
	service, _ := newService(t, nil)
	hour := start.Add(time.Hour)
	const id = "0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90"
	for name, c := range map[string]struct {
		in    alert.Silence
		wrong []string
	}{
		"an hour of everything": {alert.Silence{Ends: hour}, nil},
		"an hour of a rule":     {alert.Silence{Ends: hour, RuleID: id, Comment: "deployment"}, nil},
		"what has begun":        {alert.Silence{Begins: start.Add(-time.Hour), Ends: hour}, nil},
		"a rule by name":        {alert.Silence{Ends: hour, RuleID: "errors"}, []string{"rule_id"}},
		"no end":                {alert.Silence{}, []string{"ends"}},
		"the past":              {alert.Silence{Begins: start.Add(-2 * time.Hour), Ends: start.Add(-time.Hour)}, []string{"ends"}},
		"backwards":             {alert.Silence{Begins: hour.Add(time.Hour), Ends: hour}, []string{"ends"}},
		"too long":              {alert.Silence{Ends: start.Add(31 * 24 * time.Hour)}, []string{"ends"}},
		"too far away":          {alert.Silence{Begins: start.Add(31 * 24 * time.Hour), Ends: start.Add(32 * 24 * time.Hour)}, []string{"begins"}},
		"two lines":             {alert.Silence{Ends: hour, Comment: "a\nb"}, []string{"comment"}},
	} {
		_, err := service.Silence(t.Context(), c.in)
		if diff := cmp.Diff(c.wrong, fields(t, err)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

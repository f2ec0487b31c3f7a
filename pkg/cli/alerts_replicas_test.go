package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	netmail "net/mail"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/keywarden/keywarden/pkg/alert/channel"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// told is what two receivers, one of webhooks and one of mail, were told: how often each
// of them got each delivery. It is safe for concurrent use.
type told struct {
	secret seal.Secret

	mu    sync.Mutex
	hooks map[string]map[string]int // by rule, by id of the delivery
	mails map[string]map[string]int
	wrong []error
	gate  map[string]chan struct{} // by kind of receiver: what came waits until it is closed
}

func newTold() *told {
	return &told{
		secret: seal.NewSecret("whsec_" + strings.Repeat("a2V5", 8)),
		hooks:  map[string]map[string]int{}, mails: map[string]map[string]int{}, gate: map[string]chan struct{}{},
	}
}

// note counts what a receiver got, and waits while the receiver is held: what is told is
// there, and whoever tells it does not know.
func (d *told) note(kind string, counts map[string]map[string]int, rule, id string, err error) {
	d.mu.Lock()
	if err != nil {
		d.wrong = append(d.wrong, err)
	}
	if counts[rule] == nil {
		counts[rule] = map[string]int{}
	}
	counts[rule][id]++
	gate := d.gate[kind]
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// hold lets receivers take what comes without an answer, until release is called, which
// may be more than once.
func (d *told) hold(t *testing.T, kinds ...string) (release func()) {
	gate := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, kind := range kinds {
		d.gate[kind] = gate
	}
	release = sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		clear(d.gate)
		close(gate)
	})
	t.Cleanup(release)
	return release
}

// of is how often the hook and the mailbox got each delivery about a rule.
func (d *told) of(rule string) (hooks, mails map[string]int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copied(d.hooks[rule]), copied(d.mails[rule])
}

func copied(m map[string]int) map[string]int {
	c := map[string]int{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

// ServeHTTP receives webhooks. One that is not signed as Standard Webhooks are is a
// failure of the test.
func (d *told) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = channel.Verify(d.secret, r.Header, body, time.Now())
	}
	var n struct {
		Data struct {
			Rule string `json:"rule"`
		} `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(body, &n)
	}
	d.note("webhook", d.hooks, n.Data.Rule, r.Header.Get(channel.HeaderID), err)
	w.WriteHeader(http.StatusNoContent)
}

// NewSession implements smtp.Backend.
func (d *told) NewSession(*smtp.Conn) (smtp.Session, error) { return mailSession{d}, nil }

// mailSession is one connection to the mail server.
type mailSession struct{ *told }

func (mailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (mailSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (mailSession) Reset()                               {}
func (mailSession) Logout() error                        { return nil }

// Data takes a mail. The id of the delivery is in its Message-ID.
func (s mailSession) Data(r io.Reader) error {
	m, err := netmail.ReadMessage(r)
	if err != nil {
		s.note("email", s.mails, "", "", err)
		return err
	}
	id, _, _ := strings.Cut(strings.Trim(m.Header.Get("Message-ID"), "<>"), "@")
	_, rule, _ := strings.Cut(m.Header.Get("Subject"), "] ")
	s.note("email", s.mails, rule, id, nil)
	return nil
}

// serveMail runs the mail server and returns its port.
func (d *told) serveMail(t *testing.T) int {
	t.Helper()
	server := smtp.NewServer(d)
	server.Domain = "mail.example.com"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return listener.Addr().(*net.TCPAddr).Port
}

// watched are three replicas on one database that watch over themselves.
type watched struct {
	t     *testing.T
	told  *told
	in    invocation
	url   string
	admin *apptest.User

	texts func(sql string, args ...any) []string // the one column that a query finds
	exec  func(sql string, args ...any)

	servers  [3]*server
	ids      map[string]int // place of the server by its id among the replicas
	channels []string
	uses     int // of canary keys
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, told: newTold(), url: pgtest.New(t), ids: map[string]int{}}
	hook := httptest.NewServer(w.told)
	t.Cleanup(hook.Close)
	w.in = serving(w.url, seal.NewMasterKey(),
		"alerts.interval=1s", "alerts.allow_networks=127.0.0.0/8", "alerts.smtp.host=127.0.0.1", "alerts.smtp.security=none",
		"alerts.smtp.from=keywarden@example.com", "alerts.smtp.port="+strconv.Itoa(w.told.serveMail(t)))
	w.connect()
	for i := range w.servers {
		w.start(i)
	}
	w.admin = makeAdmin(t, w.in, w.servers[0])
	for _, ch := range []map[string]any{
		{"name": "hook", "kind": "webhook", "url": hook.URL, "secret": w.told.secret.Reveal()},
		{"name": "mail", "kind": "email", "recipients": []string{"ops@example.com"}},
	} {
		w.channels = append(w.channels, w.do(0, http.StatusCreated, "POST", "/admin/v1/alert-channels", ch).Text(t, "id"))
	}
	return w
}

// start starts the server at a place, and finds out by which id the others know it.
func (w *watched) start(place int) {
	w.t.Helper()
	w.servers[place] = serve(w.t, w.in)
	w.eventually("the replica is known", func() bool {
		for _, id := range w.texts(`SELECT id FROM replicas`) {
			if _, known := w.ids[id]; !known {
				w.ids[id] = place
				return true
			}
		}
		return false
	})
}

func (w *watched) do(place, status int, method, path string, body any) apptest.Answer {
	w.t.Helper()
	return w.servers[place].Want(w.t, status, method, path, body, w.admin.Auth()...)
}

// eventually polls for longer than a lease lasts.
func (w *watched) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// connect opens what the test looks into the database by.
func (w *watched) connect() {
	db := apptest.Connect(w.t, w.url)
	w.texts = func(sql string, args ...any) (list []string) {
		w.t.Helper()
		rows, err := db.Query(w.t.Context(), sql, args...)
		if err != nil {
			w.t.Fatalf("%s: %v", sql, err)
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				w.t.Fatalf("%s: %v", sql, err)
			}
			list = append(list, text)
		}
		if err := rows.Err(); err != nil {
			w.t.Fatalf("%s: %v", sql, err)
		}
		return list
	}
	w.exec = func(sql string, args ...any) {
		w.t.Helper()
		if _, err := db.Exec(w.t.Context(), sql, args...); err != nil {
			w.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// kill ends a replica as a crash does. Unless the leases of the dead one are waited for,
// they end now.
func (w *watched) kill(id string, wait bool) {
	w.t.Helper()
	w.servers[w.ids[id]].kill()
	if wait {
		return
	}
	for _, table := range []string{"alert_rules", "alert_deliveries"} {
		w.exec(`UPDATE `+table+` SET leased_until = now() WHERE holder = $1 AND leased_until > now()`, id)
	}
}

// rule makes a rule that fires at the next use of a canary key, and returns it with the
// id of the replica that has it.
func (w *watched) rule(name string) (rule, holder string) {
	w.t.Helper()
	rule = w.do(0, http.StatusCreated, "POST", "/admin/v1/alert-rules", map[string]any{
		"name": name, "signal": "canary_used", "threshold": w.uses + 1, "window": "6h", "channels": w.channels,
	}).Text(w.t, "id")
	w.eventually("a replica has the rule", func() bool {
		held := w.texts(`SELECT holder FROM alert_rules WHERE id = $1 AND status->>'state' = 'ok' AND status->'reading'->>'known' = 'true'`, rule)
		if len(held) != 1 {
			return false
		}
		holder = held[0]
		return true
	})
	return rule, holder
}

// intrude uses a canary key, as whoever found it would.
func (w *watched) intrude(place int) {
	w.t.Helper()
	bait := w.do(place, http.StatusCreated, "POST", "/api-keys", map[string]any{"name": "bait", "canary": true}).Text(w.t, "key")
	w.servers[place].Want(w.t, http.StatusUnauthorized, "GET", "/api/test", nil, "X-API-Key", bait)
	w.uses++
}

// sender waits until both deliveries of a rule are under way, and is the replica that
// makes the attempt at the one to a channel.
func (w *watched) sender(rule, channel string) string {
	w.t.Helper()
	var holder []string
	w.eventually("the deliveries are under way", func() bool {
		holder = w.texts(`SELECT holder FROM alert_deliveries d JOIN alerts a ON a.id = d.alert_id
			WHERE a.rule_id = $1 AND d.channel_id = $2 AND d.attempts = 1 AND holder <> ''`, rule, channel)
		return len(holder) == 1
	})
	return holder[0]
}

// received waits until both receivers were told of a rule, and long enough for another
// replica to tell them, too, if nothing kept it from that.
func (w *watched) received(rule, name string) {
	w.t.Helper()
	w.eventually("it is received", func() bool {
		h, m := w.told.of(name)
		return sum(h) >= 1 && sum(m) >= 1
	})
	w.pass(rule)
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// settled waits until the rule has been worked out a few times since everything about
// it was delivered: whatever would be told twice has been.
func (w *watched) settled(rule string) {
	w.t.Helper()
	w.eventually("both deliveries are delivered", func() bool {
		return w.texts(`SELECT count(*)::text FROM alert_deliveries d JOIN alerts a ON a.id = d.alert_id
			WHERE a.rule_id = $1 AND d.state = 'delivered'`, rule)[0] == "2"
	})
	w.pass(rule)
}

// pass waits until the rule has been worked out a few times more. Meanwhile every replica
// that has nothing else to do has looked into the outbox.
func (w *watched) pass(rule string) {
	w.t.Helper()
	turn := w.texts(`SELECT turn::text FROM alert_rules WHERE id = $1`, rule)[0]
	w.eventually("the rule is worked out again", func() bool {
		return w.texts(`SELECT (turn >= $2::bigint + 3)::text FROM alert_rules WHERE id = $1`, rule, turn)[0] == "true"
	})
}

// once fails the test unless there is one alert of the rule, with one delivery to each
// channel, and each receiver got it under one id, at most so many times.
func (w *watched) once(place int, rule, name string, hooks, mails int) {
	w.t.Helper()
	type page struct {
		Items []struct {
			ID, State, Event string
		} `json:"items"`
	}
	list := func(path string) (p page) {
		if err := json.Unmarshal(w.do(place, http.StatusOK, "GET", path, nil).Body, &p); err != nil {
			w.t.Fatal(err)
		}
		return p
	}
	alerts := list("/admin/v1/alerts?rule_id=" + rule)
	if len(alerts.Items) != 1 || alerts.Items[0].State != "firing" {
		w.t.Fatalf("alerts of the rule: %+v, want one that fires", alerts.Items)
	}
	ids := map[string]string{} // of deliveries, by channel
	for _, ch := range w.channels {
		found := list("/admin/v1/alert-deliveries?alert_id=" + alerts.Items[0].ID + "&channel_id=" + ch)
		if len(found.Items) != 1 || found.Items[0].State != "delivered" {
			w.t.Fatalf("deliveries to one channel: %+v, want one that was delivered", found.Items)
		}
		ids[ch] = found.Items[0].ID
	}
	h, m := w.told.of(name)
	for _, got := range []struct {
		receiver, id string
		counts       map[string]int
		most         int
	}{{"hook", ids[w.channels[0]], h, hooks}, {"mailbox", ids[w.channels[1]], m, mails}} {
		// One id: after the receiver has dropped what it knows already, it was told once.
		if n := got.counts[got.id]; len(got.counts) != 1 || n < 1 || n > got.most {
			w.t.Errorf("the %s got %v, want %s alone, and that at most %d times", got.receiver, got.counts, got.id, got.most)
		}
	}
	w.t.Logf("the hook got it %d times, the mailbox %d times, each under one id", sum(h), sum(m))
	w.told.mu.Lock()
	defer w.told.mu.Unlock()
	if len(w.told.wrong) > 0 {
		w.t.Errorf("not to be believed: %v", w.told.wrong)
	}
}

// moments are when a replica is killed. Each of them lets a rule fire, kills who has
// what counts at that moment, and returns who that was and how often the receivers may
// get it.
func (w *watched) moments() map[string]func(name string, wait bool) (rule, dead string, hooks, mails int) {
	type moment = func(name string, wait bool) (rule, dead string, hooks, mails int)
	return map[string]moment{
		"with the rule, before it fires": func(name string, wait bool) (string, string, int, int) {
			rule, holder := w.rule(name)
			w.kill(holder, wait)
			w.intrude((w.ids[holder] + 1) % len(w.servers))
			return rule, holder, 1, 1
		},
		"while both receivers have it and have not answered": func(name string, wait bool) (string, string, int, int) {
			rule, _ := w.rule(name)
			release := w.told.hold(w.t, "webhook", "email")
			w.intrude(0)
			dead := w.sender(rule, w.channels[0])
			w.received(rule, name)
			w.kill(dead, wait)
			release()
			return rule, dead, 2, 2
		},
		"when the mail is noted and the hook has not answered": func(name string, wait bool) (string, string, int, int) {
			rule, _ := w.rule(name)
			release := w.told.hold(w.t, "webhook")
			w.intrude(1)
			dead := w.sender(rule, w.channels[0])
			w.eventually("the mail is noted", func() bool {
				return len(w.texts(`SELECT d.id::text FROM alert_deliveries d JOIN alerts a ON a.id = d.alert_id
					WHERE a.rule_id = $1 AND d.channel_id = $2 AND d.state = 'delivered'`, rule, w.channels[1])) == 1
			})
			w.received(rule, name)
			w.kill(dead, wait)
			release()
			return rule, dead, 2, 1
		},
		"when both have answered and neither is noted": func(name string, wait bool) (string, string, int, int) {
			rule, _ := w.rule(name)
			release := w.told.hold(w.t, "webhook", "email")
			w.intrude(2)
			dead := w.sender(rule, w.channels[0])
			w.received(rule, name)
			w.unnoted(rule, release, func() { w.servers[w.ids[dead]].kill() })
			w.kill(dead, wait)
			return rule, dead, 2, 2
		},
	}
}

// unnoted lets receivers answer while nobody can write down that they did, and calls
// kill when that is being tried.
func (w *watched) unnoted(rule string, answer, kill func()) {
	w.t.Helper()
	blocker := apptest.Connect(w.t, w.url)
	tx, err := blocker.Begin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(w.t.Context())) }()
	if _, err := tx.Exec(w.t.Context(), `SELECT FROM alert_deliveries d JOIN alerts a ON a.id = d.alert_id
		WHERE a.rule_id = $1 FOR UPDATE OF d`, rule); err != nil {
		w.t.Fatal(err)
	}
	answer()
	const trying = `FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
		AND query LIKE '%UPDATE alert_deliveries SET state%'`
	w.eventually("both results are being noted", func() bool { return w.texts(`SELECT count(*)::text ` + trying)[0] == "2" })
	kill()
	// The statements of a client that is gone would still be carried out.
	w.eventually("neither is noted", func() bool {
		w.exec(`SELECT pg_terminate_backend(pid) ` + trying)
		return w.texts(`SELECT count(*)::text ` + trying)[0] == "0"
	})
}

// TestAlertIsToldOnceWhicheverReplicaIsKilled kills, with SIGKILL, the one of three
// replicas that has the rule or the delivery. There is one alert with one delivery to
// each channel; who drops ids that are known is told exactly once, and who cannot, such
// as a mailbox, at most once more.
func TestAlertIsToldOnceWhicheverReplicaIsKilled(t *testing.T) {
	rounds := 3
	if !soaking() {
		rounds = 1
	}
	w := newWatched(t)
	for moment, play := range w.moments() {
		if !soaking() && !strings.HasPrefix(moment, "while both") {
			continue
		}
		t.Run(moment, func(t *testing.T) {
			outer := w.t
			w.t = t
			defer func() { w.t = outer }()
			for round := range rounds {
				name := fmt.Sprintf("%s, %d", moment, round)
				rule, dead, hooks, mails := play(name, soaking() && round == 0) // the first time at its own pace
				alive := (w.ids[dead] + 1) % len(w.servers)
				w.settled(rule)
				w.once(alive, rule, name, hooks, mails)
				w.t = outer // the server outlives this part
				w.start(w.ids[dead])
				w.t = t
			}
		})
	}
}

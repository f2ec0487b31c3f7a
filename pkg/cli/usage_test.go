package cli_test

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

const meteredDocument = `
version: 1
routes:
  - name: counted
    match: {path: {exact: /counted}}
    auth: {mode: none}
    respond: {status: 200, body: "0123456789"}
`

// REL-15: a program that is killed loses no more usage than that of one interval
// between flushes, and counts nothing twice.
func TestKilledLosesUsageOfOneInterval(t *testing.T) {
	const interval = time.Second
	file := writeFile(t, t.TempDir()+"/gateway.yaml", meteredDocument)
	in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+file, "gateway.watch=false", "usage.flush_interval="+interval.String())
	s := serve(t, in)
	admin := makeAdmin(t, in, s)

	var mu sync.Mutex
	var answered []time.Time
	sent := 0
	end := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-end:
					return
				case <-time.After(5 * time.Millisecond):
				}
				mu.Lock()
				sent++
				mu.Unlock()
				resp, err := client.Get(s.URL + "/counted")
				if err != nil {
					continue
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if err == nil {
					mu.Lock()
					answered = append(answered, time.Now())
					mu.Unlock()
				}
			}
		})
	}
	time.Sleep(5*interval + interval/2)
	s.kill()
	killed := time.Now()
	close(end)
	load.Wait()

	s = serve(t, in)
	s.SignIn(t, admin)
	a := s.Want(t, http.StatusOK, "GET", "/admin/v1/usage?route=counted", nil, admin.Auth()...)
	var report struct {
		Total struct {
			Requests      int `json:"requests"`
			ResponseBytes int `json:"response_bytes"`
		} `json:"total"`
	}
	if err := json.Unmarshal(a.Body, &report); err != nil {
		t.Fatal(err)
	}
	// A flush that was on its way when the program ended may be lost as well.
	const flush = interval / 2
	due := 0
	for _, at := range answered {
		if at.Before(killed.Add(-interval - flush)) {
			due++
		}
	}
	got := report.Total
	t.Logf("%d sent, %d answered, %d of them before the last interval; %d counted", sent, len(answered), due, got.Requests)
	if got.Requests < due || got.Requests > sent || due < 100 {
		t.Errorf("%d counted, want from %d to %d", got.Requests, due, sent)
	}
	if got.ResponseBytes != 10*got.Requests {
		t.Errorf("%d bytes in %d answers", got.ResponseBytes, got.Requests)
	}
}

package cli_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// What is asked of a quota by four replicas, of which one is killed half way.
const (
	quotaReplicas = 4
	quotaCallers  = 64

	// quotaBlock is the most units that a killed replica takes with it: 1/40 of the
	// quota, see quota.Meter.
	quotaBlock = 40
)

const quotaDocument = `
version: 1
routes:
  - name: metered
    match: {path: {exact: /metered}}
    auth: {mode: none}
    quota: [{name: month, by: route, limit: %d, period: month}]
    respond: {status: 204}
`

// TestQuotaIsNeverOverdrawn sends many more requests than a quota has units to four
// programs at once; one of them is killed half way and started again.
func TestQuotaIsNeverOverdrawn(t *testing.T) {
	requests := 20_000
	if soaking() {
		requests = 100_000
	}
	limit := requests / 2
	file := writeFile(t, t.TempDir()+"/gateway.yaml", fmt.Sprintf(quotaDocument, limit))
	in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+file, "gateway.watch=false")
	var replicas [quotaReplicas]atomic.Pointer[server]
	for i := range replicas {
		replicas[i].Store(serve(t, in))
	}

	var sent, accepted, refused, lost atomic.Int64
	var once sync.Once
	var load sync.WaitGroup
	killed := make(chan struct{})
	for i := range quotaCallers {
		load.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
			for n := sent.Add(1); n <= int64(requests); n = sent.Add(1) {
				if n >= int64(requests)/4 {
					once.Do(func() { close(killed) })
				}
				resp, err := client.Get(replicas[i%quotaReplicas].Load().URL + "/metered")
				if err != nil { // of the one that is killed; what it has counted, nobody knows
					lost.Add(1)
					time.Sleep(20 * time.Millisecond)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				switch resp.StatusCode {
				case http.StatusNoContent:
					accepted.Add(1)
				case http.StatusTooManyRequests:
					refused.Add(1)
				default:
					t.Errorf("status %d", resp.StatusCode)
				}
			}
		})
	}
	<-killed
	replicas[0].Load().kill()
	replicas[0].Store(serve(t, in))
	load.Wait()
	t.Logf("%d requests for %d units over %d replicas, one killed: %d accepted, %d refused, %d without an answer",
		requests, limit, quotaReplicas, accepted.Load(), refused.Load(), lost.Load())
	if accepted.Load() > int64(limit) {
		t.Errorf("the quota is overdrawn by %d", accepted.Load()-int64(limit))
	}
	// What the killed one had not given out, and what it had without an answer, is lost.
	least := int64(limit - limit/quotaBlock - quotaCallers)
	if sent := accepted.Load() + refused.Load(); sent > int64(limit)*5/4 && accepted.Load() < least {
		t.Errorf("only %d of %d units were given out, want at least %d", accepted.Load(), limit, least)
	}
}

package ginproxy

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
)

// bucket is the token bucket of one caller, with the arithmetic of
// golang.org/x/time/rate, which is no module of this repository.
type bucket struct {
	rate, size float64 // tokens a second, and at most

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func newBucket(rate float64) *bucket { return &bucket{rate: rate, size: rate, tokens: rate} }

// take takes a token, if there is one, and tells how many are left.
func (b *bucket) take(now time.Time) (left int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if elapsed := now.Sub(b.last); elapsed > 0 {
		b.tokens = min(b.size, b.tokens+elapsed.Seconds()*b.rate)
		b.last = now
	}
	if b.tokens < 1 {
		return 0, false
	}
	b.tokens--
	return int(b.tokens), true
}

// limit holds each caller to a rate, and tells them in the usual headers.
func limit(rate float64) gin.HandlerFunc {
	most := strconv.Itoa(int(rate))
	return func(c *gin.Context) {
		k := callOf(c)
		left, ok := k.who.bucket.take(k.start)
		h := c.Writer.Header()
		h.Set("X-Ratelimit-Limit", most)
		h.Set("X-Ratelimit-Remaining", strconv.Itoa(left))
		h.Set("X-Ratelimit-Reset", strconv.FormatInt(k.start.Unix()+1, 10))
		if !ok {
			h.Set("Retry-After", "1")
			refuse(c, http.StatusTooManyRequests, "rate_limit.exceeded")
			return
		}
		c.Next()
	}
}

// quota holds each caller to a number of requests in a month.
func quota(most int64) gin.HandlerFunc {
	return func(c *gin.Context) {
		k := callOf(c)
		year, month, _ := k.start.UTC().Date()
		now := int64(year)*12 + int64(month)
		if then := k.who.month.Load(); then != now && k.who.month.CompareAndSwap(then, now) {
			k.who.usedInMonth.Store(0)
		}
		if k.who.usedInMonth.Add(1) > most {
			refuse(c, http.StatusTooManyRequests, "quota.exceeded")
			return
		}
		c.Next()
	}
}

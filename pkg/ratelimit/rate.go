package ratelimit

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// errRate is what is wrong with a text that is no rate.
var errRate = errors.New("must be a rate such as 30pm (30 per minute), 10ps (10 per second) or 1000ph (1000 per hour)")

// ParseSpike reads the rate of a spike arrest: 30pm, 10ps, 1000ph. It is smoothed:
// 30pm is one unit each two seconds, and nothing can be saved up.
func ParseSpike(text string) (Limit, error) {
	units := map[string]time.Duration{"ps": time.Second, "pm": time.Minute, "ph": time.Hour}
	digits := strings.TrimRight(text, "pmsh")
	window, ok := units[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 1 || digits[0] == '+' || digits[0] == '0' {
		return Limit{}, errRate
	}
	l := Limit{Quota: n, Window: window, Burst: 1}
	return l, l.Validate()
}

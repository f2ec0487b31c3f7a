package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/gateway/benchtest/ginproxy"
)

// rivalKey is the key that the proxy to compare with knows. It is as long as those of
// the gateway.
const rivalKey = "kw_live_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"

// Policies of the proxy to compare with, as those of the gateway's cases: whatever
// has a policy has metrics, because the gateway always has.
type policy int

const (
	policyNone policy = iota
	policyKey
	policyToken
	policyAll // key, limit, quota, metrics, traces, log
)

// rival starts the proxy to compare with.
func (t *site) rival(has policy) (*process, error) {
	args := []string{roleProxy, "-target", t.service()}
	log := ""
	token, public, err := accessToken()
	if err != nil {
		return nil, err
	}
	switch has {
	case policyNone:
	case policyKey:
		args = append(args, "-metrics", "-key", rivalKey)
	case policyToken:
		args = append(args, "-metrics", "-token", hex.EncodeToString(public))
	case policyAll:
		log = filepath.Join(t.dir, fmt.Sprintf("rival-%d.log", t.files.Add(1)))
		args = append(args, "-metrics", "-key", rivalKey, "-limit", fmt.Sprint(highLimit), "-quota", fmt.Sprint(int64(highQuota)),
			"-traces", "http://"+t.collector.addr+"/v1/traces", "-log", log)
	}
	p, err := startRole(args...)
	if err != nil {
		return nil, err
	}
	p.key, p.token, p.log = rivalKey, token, log
	t.add(p)
	return p, nil
}

// accessToken is a token like the gateway's own, and the key that verifies it.
func accessToken() (string, ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", nil, err
	}
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": ginproxy.Issuer, "aud": ginproxy.Audience, "sub": uuid.NewString(), "jti": uuid.NewString(), "sid": uuid.NewString(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"role": "user", "scope": "apps:read apps:write keys:read keys:write profile:read profile:write usage:read",
	})
	token.Header["typ"], token.Header["kid"] = "at+jwt", uuid.NewString()
	text, err := token.SignedString(private)
	return text, public, err
}

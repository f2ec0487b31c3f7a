package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// The health protocol of gRPC: a call with one message in each direction, of which
// each has one field.
const (
	checkMethod  = "/grpc.health.v1.Health/Check"
	serviceField = 1 // of HealthCheckRequest, a string
	statusField  = 1 // of HealthCheckResponse, an enumeration
	serving      = 1
)

// frameHeader is what stands before a message: a flag for compression and four
// bytes of length.
const frameHeader = 5

// call asks by gRPC. It needs HTTP/2, which the prober has to speak.
func (c *Checker) call(ctx context.Context, t Checked) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL.Scheme+"://"+t.URL.Host+checkMethod,
		bytes.NewReader(question(c.config.Service)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("User-Agent", "keywarden-health")
	resp, err := t.Prober.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/grpc") {
		return fmt.Errorf("the answer is not gRPC, its status is %d", resp.StatusCode)
	}
	message, err := io.ReadAll(io.LimitReader(resp.Body, maxCheckBody))
	if err != nil {
		return err
	}
	// Without a message, the status stands in the header of the answer.
	status := resp.Trailer.Get("Grpc-Status") + resp.Header.Get("Grpc-Status")
	if status != "0" {
		return fmt.Errorf("gRPC status %.20q", status)
	}
	return verdict(message)
}

// question is the framed HealthCheckRequest.
func question(service string) []byte {
	frame := make([]byte, frameHeader)
	if service != "" {
		frame = protowire.AppendTag(frame, serviceField, protowire.BytesType)
		frame = protowire.AppendString(frame, service)
	}
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-frameHeader))
	return frame
}

var errFrame = errors.New("the answer is not one message of gRPC")

// verdict reads the framed HealthCheckResponse; nil means SERVING.
func verdict(frame []byte) error {
	if len(frame) < frameHeader || frame[0] != 0 || int(binary.BigEndian.Uint32(frame[1:])) != len(frame)-frameHeader {
		return errFrame
	}
	status := uint64(0) // UNKNOWN
	for message := frame[frameHeader:]; len(message) > 0; {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errFrame
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
			return errFrame
		}
		if field == statusField && kind == protowire.VarintType {
			status, _ = protowire.ConsumeVarint(message)
		}
		message = message[n:]
	}
	if status != serving {
		return fmt.Errorf("the service says that its status is %d, not SERVING", status)
	}
	return nil
}

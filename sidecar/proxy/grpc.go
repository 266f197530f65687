package proxy

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// grpcCode is a status of gRPC.
type grpcCode int

const (
	grpcInvalidArgument   grpcCode = 3
	grpcResourceExhausted grpcCode = 8
	grpcUnavailable       grpcCode = 14
)

// grpcAnswer makes the answer Trailers-Only, as gRPC's "PROTOCOL-HTTP2" calls a
// response that is one header block.
func (f *refusal) grpcAnswer(out *answer) {
	out.status = http.StatusOK
	out.add("Content-Type", "application/grpc")
	out.add("Grpc-Status", strconv.Itoa(int(f.grpcCode)))
	out.add("Grpc-Message", percentEncoded(f.problem.Detail))
	out.add("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(f.grpcStatus()))
}

// grpcStatus encodes a google.rpc.Status with RetryInfo and QuotaFailure
// where they apply (googleapis, google/rpc/status.proto and
// error_details.proto). By hand: three messages are not worth the size of
// their generated packages in every pod.
func (f *refusal) grpcStatus() []byte {
	status := protowire.AppendTag(nil, 1, protowire.VarintType)
	status = protowire.AppendVarint(status, uint64(f.grpcCode))
	status = appendString(status, 2, f.problem.Detail)
	if f.retryAfter > 0 {
		status = appendAny(status, "google.rpc.RetryInfo", appendBytes(nil, 1, duration(f.retryAfter)))
	}
	if f.weirError == errorQuotaExceeded {
		var violations []byte
		for _, service := range f.problem.ViolatedPolicies {
			violation := appendString(nil, 1, "service:"+service)
			violation = appendString(violation, 2, f.problem.Detail)
			violations = appendBytes(violations, 1, violation)
		}
		status = appendAny(status, "google.rpc.QuotaFailure", violations)
	}
	return status
}

// duration encodes a google.protobuf.Duration, rounded up to milliseconds.
func duration(d time.Duration) []byte {
	millis := ceilMillis(d)
	var b []byte
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(millis/1000))
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(millis%1000*int64(time.Millisecond)))
}

// appendAny appends a google.protobuf.Any to Status.details.
func appendAny(status []byte, name string, message []byte) []byte {
	detail := appendString(nil, 1, "type.googleapis.com/"+name)
	detail = appendBytes(detail, 2, message)
	return appendBytes(status, 3, detail)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), value)
}

// percentEncoded is the encoding of grpc-message: printable ASCII without '%'
// stays as it is.
func percentEncoded(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

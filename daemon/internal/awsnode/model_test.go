package awsnode

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

type captured struct{ form url.Values }

func (c *captured) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	c.form, err = url.ParseQuery(string(body))
	return nil, errors.Join(err, errors.New("not sent"))
}

// fill gives each field of a request a value, and each list one item.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Int32:
		v.SetInt(7)
	case reflect.Bool:
		v.SetBool(true)
	default:
	}
}

// TestFakeAgainstTheModel: the API's model, from which the SDK is generated, has each parameter that the fake takes, and no ClientToken or DryRun.
func TestFakeAgainstTheModel(t *testing.T) {
	sent := &captured{}
	c := ec2.New(ec2.Options{HTTPClient: sent, Region: "eu-central-1", Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		})})
	calls := map[string]func() error{
		"DescribeNetworkInterfaces":  requestOf(t, c.DescribeNetworkInterfaces),
		"AssignPrivateIpAddresses":   requestOf(t, c.AssignPrivateIpAddresses),
		"UnassignPrivateIpAddresses": requestOf(t, c.UnassignPrivateIpAddresses),
		"AssignIpv6Addresses":        requestOf(t, c.AssignIpv6Addresses),
		"UnassignIpv6Addresses":      requestOf(t, c.UnassignIpv6Addresses),
	}
	number := regexp.MustCompile(`\.[0-9]+`)
	for _, action := range slices.Sorted(maps.Keys(calls)) {
		if err := calls[action](); err == nil {
			t.Fatal("sent")
		}
		model := map[string]bool{}
		for name := range sent.form {
			model[number.ReplaceAllString(name, ".N")] = true
		}
		for _, name := range fakeec2.Parameters(action) {
			if !model[name] {
				t.Errorf("the fake takes %s of %s, which the model has not: %v", name, action, slices.Sorted(maps.Keys(model)))
			}
		}
		if model["ClientToken"] {
			t.Errorf("%s has a ClientToken: it can be repeated", action)
		}
		if want := action == "DescribeNetworkInterfaces"; model["DryRun"] != want {
			t.Errorf("%s has DryRun: %v, want %v", action, model["DryRun"], want)
		}
		if sent.form.Get("Action") != action {
			t.Errorf("%s: %v", action, sent.form)
		}
	}
}

func requestOf[In, Out any](t *testing.T, call func(context.Context, *In, ...func(*ec2.Options)) (*Out, error)) func() error {
	return func() error {
		var in In
		fill(reflect.ValueOf(&in).Elem())
		_, err := call(t.Context(), &in)
		return err
	}
}

package fakeec2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
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

// TestFakeAgainstTheModel: the API's model, from which the SDK is generated, has each parameter that the fake takes, and DryRun and ClientToken
// exactly where the fake has them.
func TestFakeAgainstTheModel(t *testing.T) {
	sent := &captured{}
	c := ec2.New(ec2.Options{HTTPClient: sent, Region: DefaultRegion, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		})})
	for _, action := range Actions() {
		method := reflect.ValueOf(c).MethodByName(action)
		if !method.IsValid() {
			t.Errorf("the model has no action %s", action)
			continue
		}
		in := reflect.New(method.Type().In(1).Elem())
		fill(in.Elem())
		if out := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), in}); out[1].IsNil() {
			t.Fatal("sent")
		}
		model := map[string]bool{}
		for name := range sent.form {
			model[number.ReplaceAllString(name, ".N")] = true
		}
		for _, name := range Parameters(action) {
			if !model[name] {
				t.Errorf("the fake takes %s of %s, which the model has not", name, action)
			}
		}
		for _, name := range []string{"DryRun", "ClientToken"} { // a call with a ClientToken may be repeated
			if has := slices.Contains(Parameters(action), name); model[name] != has {
				t.Errorf("%s: %s in the model %v, in the fake %v", action, name, model[name], has)
			}
		}
		if sent.form.Get("Action") != action {
			t.Errorf("%s: %v", action, sent.form)
		}
	}
}

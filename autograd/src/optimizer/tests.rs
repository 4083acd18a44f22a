use super::*;
use crate::Tape;
use quarterturn_core::Device;

/// One step on `L = Σ w²`.
fn descend(optimizer: &mut Optimizer, weight: &mut Param, lr: f64) {
    let tape = Tape::new();
    let w = tape.param(weight);
    let loss = w.mul(&w).sum();
    drop(w);
    let gradients = loss.backward().unwrap();
    optimizer.step(&gradients, lr, |f| f("weight", weight)).unwrap();
}

fn weight(device: &Device) -> Param {
    Param::weight(Tensor::from_vec([3], vec![1.0, -2.0, 0.5], device).unwrap())
}

#[test]
fn all_rules_go_downhill() {
    for device in [Device::Cpu, Device::Reference] {
        let nesterov = Optimizer::new(Rule::Nesterov { momentum: 0.9, weight_decay: 1e-4 });
        let optimizers = [Optimizer::sgd(0.9, 1e-4), nesterov, Optimizer::adam(1e-4), Optimizer::adamw(1e-4)];
        for mut optimizer in optimizers {
            let mut w = weight(&device);
            for _ in 0..400 {
                descend(&mut optimizer, &mut w, 0.02);
            }
            let w = w.value().to_f64().unwrap();
            assert!(w.iter().all(|w| w.abs() < 1e-3), "{:?} on {device}: {w:?}", optimizer.rule());
        }
    }
}

/// SGD with momentum by hand: w = 1, dw = 2w; v = 2, w = 0.8; v = 0.9·2 + 1.6 = 3.4, w = 0.46.
#[test]
fn sgd_agrees_with_two_steps_by_hand() {
    let mut w = Param::weight(Tensor::reference([1], vec![1.0]));
    let mut optimizer = Optimizer::sgd(0.9, 0.0);
    descend(&mut optimizer, &mut w, 0.1);
    descend(&mut optimizer, &mut w, 0.1);
    assert!((w.value().f64s()[0] - 0.46).abs() < 1e-15);
}

/// The weight after each of three steps with the gradient `2w` and rate 0.1, from `w = 1`, by `next(w, g, t)`.
fn by_hand(mut next: impl FnMut(f64, f64, i32) -> f64) -> Vec<f64> {
    let mut w = 1.0;
    let mut step = |t| {
        w = next(w, 2.0 * w, t);
        w
    };
    (1..=3).map(&mut step).collect()
}

fn by_rule(rule: Rule) -> Vec<f64> {
    let mut w = Param::weight(Tensor::reference([1], vec![1.0]));
    let mut optimizer = Optimizer::new(rule);
    let mut step = |_| {
        descend(&mut optimizer, &mut w, 0.1);
        w.value().f64s()[0]
    };
    (1..=3).map(&mut step).collect()
}

fn assert_close(got: &[f64], expected: &[f64]) {
    assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14), "{got:?}, not {expected:?}");
}

/// PyTorch's documentation of `torch.optim.SGD`, line by line.
#[test]
fn nesterov_agrees_with_steps_by_hand() {
    let (momentum, weight_decay) = (0.9, 0.02);
    let mut buffer = None;
    let expected = by_hand(|w, g, _| {
        let g = g + weight_decay * w;
        let b = buffer.map_or(g, |b: f64| momentum * b + g);
        buffer = Some(b);
        w - 0.1 * (g + momentum * b)
    });
    assert_close(&by_rule(Rule::Nesterov { momentum, weight_decay }), &expected);
}

/// PyTorch's documentation of `torch.optim.AdamW`, line by line; Adam's with the decay in the gradient.
#[test]
fn adamw_and_adam_agree_with_steps_by_hand() {
    let (beta1, beta2, eps, weight_decay) = (0.8f64, 0.9f64, 1e-3, 0.05);
    for decoupled in [true, false] {
        let (mut m, mut v) = (0.0, 0.0);
        let expected = by_hand(|w, g, t| {
            let (w, g) = if decoupled { (w - 0.1 * weight_decay * w, g) } else { (w, g + weight_decay * w) };
            m = beta1 * m + (1.0 - beta1) * g;
            v = beta2 * v + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
            w - 0.1 * m_hat / (v_hat.sqrt() + eps)
        });
        let rule = match decoupled {
            true => Rule::AdamW { beta1, beta2, eps, weight_decay },
            false => Rule::Adam { beta1, beta2, eps, weight_decay },
        };
        assert_close(&by_rule(rule), &expected);
    }
}

/// Two weights `fc.weight` `[1, 2]` and `fc.bias` `[2]`, all 1, after one step with the gradient 1 everywhere.
fn grouped(groups: Vec<ParamGroup>) -> Result<[f64; 2]> {
    let ones = |shape: &[usize]| Param::weight(Tensor::reference(shape, vec![1.0; 2]));
    let (mut weight, mut bias) = (ones(&[1, 2]), ones(&[2]));
    let mut gradients = Gradients::new();
    gradients.set(&weight, weight.value().clone());
    gradients.set(&bias, bias.value().clone());
    Optimizer::sgd(0.0, 0.5).with_groups(groups).step(&gradients, 0.1, |f| {
        f("fc.weight", &mut weight);
        f("fc.bias", &mut bias);
    })?;
    Ok([weight, bias].map(|param| param.value().f64s()[0]))
}

#[test]
fn groups_have_their_own_rate_and_decay() {
    let assert_steps = |groups, expected: [f64; 2]| assert_close(&grouped(groups).unwrap(), &expected);
    assert_steps(vec![], [1.0 - 0.15, 1.0 - 0.15]);
    assert_steps(vec![ParamGroup::vectors().with_weight_decay(0.0)], [1.0 - 0.15, 1.0 - 0.1]);
    let fast = ParamGroup::named(["*.weight"]).with_lr_factor(2.0);
    assert_steps(vec![fast.clone(), ParamGroup::named(["fc.*"]).with_lr_factor(0.0)], [1.0 - 0.3, 1.0]);
    let error = grouped(vec![fast, ParamGroup::named(["head.*", "tail"])]).unwrap_err();
    assert_eq!(error.to_string(), "optimizer: no weight is called head.* or tail");
}

#[test]
fn gradients_of_another_network_are_an_error() {
    let (mut ours, other) = (weight(&Device::Cpu), weight(&Device::Cpu));
    let mut gradients = Gradients::new();
    gradients.set(&other, other.value().clone());
    let mut optimizer = Optimizer::adam(0.0);
    let error = optimizer.step(&gradients, 0.1, |f| f("weight", &mut ours)).unwrap_err();
    assert!(error.to_string().contains("no gradient of any of the 1 parameters"), "{error}");
    assert_eq!((optimizer.steps(), ours.value().f32s()), (0, &[1.0, -2.0, 0.5][..]));
}

/// PyTorch counts the steps of each weight on its own.
#[test]
fn a_weight_that_is_thawed_begins_with_its_first_step() {
    let (mut early, mut late) = (weight(&Device::Reference), weight(&Device::Reference));
    let mut optimizer = Optimizer::adam(0.0);
    let mut step = |early: &mut Param, late: &mut Param| {
        let tape = Tape::new();
        let square = |param: &Param| tape.param(param).mul(&tape.param(param)).sum();
        let gradients = square(early).add(&square(late)).backward().unwrap();
        let visit = |f: &mut dyn FnMut(&str, &mut Param)| {
            f("early", &mut *early);
            f("late", &mut *late);
        };
        optimizer.step(&gradients, 0.1, visit).unwrap();
        gradients.of(late).is_some()
    };
    late.set_frozen(true);
    assert!(!step(&mut early, &mut late), "a frozen weight has no gradient");
    let first_step = early.value().clone();
    assert_eq!(late.value().f64s(), [1.0, -2.0, 0.5]);
    late.set_frozen(false);
    assert!(step(&mut early, &mut late));
    assert_eq!(late.value().f64s(), first_step.f64s());
    assert_eq!((optimizer.steps(), optimizer.steps_of(&early), optimizer.steps_of(&late)), (2, 2, 1));
}

#[test]
fn weights_are_updated_in_place() {
    let mut w = weight(&Device::Cpu);
    let mut optimizer = Optimizer::adam(0.0);
    let address = w.value().f32s().as_ptr();
    descend(&mut optimizer, &mut w, 0.1);
    assert_eq!(w.value().f32s().as_ptr(), address);
}

#[test]
fn a_resumed_run_goes_on_with_the_same_bits() {
    let (mut w, mut optimizer) = (weight(&Device::Cpu), Optimizer::adam(1e-3));
    descend(&mut optimizer, &mut w, 0.1);
    let mut resumed = Param::weight(w.value().clone());
    let mut second = Optimizer::new(optimizer.rule());
    second.set_steps(optimizer.steps());
    second.set_state(&resumed, optimizer.state(&w).unwrap().to_vec()).unwrap();
    descend(&mut optimizer, &mut w, 0.1);
    descend(&mut second, &mut resumed, 0.1);
    assert_eq!(w.value().f32s(), resumed.value().f32s());
    let wrong = vec![Tensor::reference([2], vec![0.0; 2])];
    assert!(matches!(second.set_state(&resumed, wrong), Err(Error::Invalid(_))));
}

#[test]
fn buffers_take_the_noted_value() {
    let tape = Tape::new();
    let (w, mut buffer) = (weight(&Device::Cpu), Param::buffer(Tensor::full([2], 0.0, &Device::Cpu).unwrap()));
    tape.update_buffers([&buffer], |_| [Tensor::full([2], 7.0, &Device::Cpu).unwrap()]);
    let gradients = tape.param(&w).sum().backward().unwrap();
    Optimizer::sgd(0.0, 0.0).step(&gradients, 0.1, |f| f("running_mean", &mut buffer)).unwrap();
    assert_eq!(buffer.value().f32s(), [7.0, 7.0]);
}

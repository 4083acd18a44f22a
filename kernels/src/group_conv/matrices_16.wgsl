// Matrices of 16 × 16, as the adapter's units multiply them.
enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
const SIZE: u32 = 16u;

